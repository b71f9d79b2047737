"""Compares the speed of embedding images with plain PyTorch, in images/s.

An embedding is the average over an image and its mirror image, scaled to length
1; it takes two forward passes. This project gets uint8 pixels and normalises
them; PyTorch gets normalised floats. Batch 1 measures the latency. Everything
else is as in train_step.py.

  python benchmarks/inference.py --peer torch
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import versus


def main(arguments: list[str] | None = None) -> int:
  return versus.main(__file__, __doc__, 'embed', [1, 32], arguments)


if __name__ == '__main__':
  sys.exit(main())
