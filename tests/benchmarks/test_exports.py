"""The parts of the benchmarks of exports that need no other runtime."""

import numpy as np
from PIL import Image

from benchmarks import export_resizing, export_trackers


def test_plain_resizing_weighs_two_neighbours():
  row = np.uint8([0, 10, 50, 90, 100, 200, 220, 0])
  image = Image.fromarray(np.repeat(row[None, :, None], 3, 2))
  found = export_resizing.resize_plainly(image, (1, 2))
  assert found[0, :, 0].tolist() == [30, 210]  # of pixels 1, 2 and 5, 6


def test_ways_of_resizing_are_compared_with_the_networks_own():
  noise = np.random.default_rng(0).integers(0, 256, (3, 90, 70, 3), np.uint8)
  images = [Image.fromarray(image) for image in noise]

  def embed(pixels):
    x = pixels[:, :9, :9].reshape(len(pixels), -1) - 127.5
    return x / np.linalg.norm(x, axis=1, keepdims=True)

  rows = export_resizing.compare(embed, images, (30, 20))
  assert list(rows) == [
    '30x20, plain', '256x128, antialiased', '256x128, plain',
    '256x128, plain, to 30x20', 'different images',
  ]  # fmt: skip
  assert 0.1 < rows['30x20, plain']['mean'] < 0.9
  assert rows['256x128, plain, to 30x20']['minimum'] > 0.9
  assert rows['different images']['mean'] < 0.3


def test_boxes_of_a_frame_are_its_images():
  images = [np.full((4, 3, 3), 7, np.uint8), np.full((6, 5, 3), 9, np.uint8)]
  frame, boxes = export_trackers.make_frame(images)
  assert frame.shape == (6, 8, 3)
  for image, (x1, y1, x2, y2) in zip(images, boxes.astype(int)):
    np.testing.assert_array_equal(frame[y1:y2, x1:x2], image)


def test_embeddings_of_a_tracker_are_compared_with_the_networks():
  def embed(images):
    x = np.float32([[x.mean(), np.median(x) + 1] for x in images])
    return x / np.linalg.norm(x, axis=1, keepdims=True)

  rng = np.random.default_rng(0)
  crops = rng.integers(0, 256, (2, 9, 5, 3), np.uint8)
  output = {
    'pixels': crops[:, ::2] + 0.3, 'crop_0': crops[0], 'crop_1': crops[1],
    'features': 3 * embed(crops),
  }  # fmt: skip
  found = export_trackers.compare(embed, output)
  assert found['pixels'] == [5, 5]
  assert found['same crops, lowest cosine'] == 1
  assert 0.9 < found['same tensors, lowest cosine'] < 1
