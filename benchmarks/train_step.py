"""Compares a training step with the same step in plain PyTorch, in images/s.

Both have the same network (a ResNet with last stride 1, APNet-C), losses and
Adam, and random batches in memory. PyTorch has the settings that its users
choose: channels_last, bfloat16 autocast, and torch.compile, which is measured
with and without. Each implementation runs in a process of its own, with huge
pages on the CPU, and on one device, the first where there are several. They are
measured in turns, so that other programs slow all alike; a rate is that of the
median step.

The limit is the rate at which all multiply-adds of the step would run at the
speed of a large matrix product, in the faster of both libraries.

  python benchmarks/train_step.py --peer torch
  python benchmarks/train_step.py --peer torch --batch 80 256 --dtype bfloat16
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import versus


def main(arguments: list[str] | None = None) -> int:
  return versus.main(__file__, __doc__, 'train', [8, 16], arguments)


if __name__ == '__main__':
  sys.exit(main())
