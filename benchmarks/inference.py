"""Images/s of embedding images and of the same network in plain PyTorch.

An embedding is the average of those of an image and its mirror image, scaled
to length 1: two passes. Batches are uint8 pixels on this project's side, which
normalises them on the way, and ready floats on PyTorch's. Batch 1 tells the
latency. All else is as in train_step.py.

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
