"""Draws a small person re-identification set in Market-1501's layout.

Every image shows a cartoon pedestrian in a detector's box. An *identity* has
fixed clothes, hair, bag and build. A *camera* has a scene, a colour cast and a
typical error in placing boxes. An image adds a walking pose, a viewpoint and
sometimes an occluder. The cameras differ so much that comparing raw pixels
finds the same camera rather than the same person. But clothes distinguish the
identities, so that a network can learn the task, and within minutes.

  python -m data.synthetic.draw DIR --seed 0
"""

import argparse
import contextlib
import functools
import os
from pathlib import Path
import tempfile
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from apnet_jax.errors import UserError
from apnet_jax.images import is_hidden
from apnet_jax.printing import printable
from data import locking
from data.synthetic import person

HEIGHT, WIDTH = 128, 64  # size of a saved image, in pixels
SUPERSAMPLING = 2  # images are drawn larger, as ImageDraw does not antialias
CANVAS = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
SCENE = (1024, CANVAS[1] + 48)  # size of a camera's view; images are crops
TRAIN, QUERY, GALLERY = 'bounding_box_train', 'query', 'bounding_box_test'
DISTRACTOR, JUNK = 0, -1  # Market-1501's two special pids
MAX_PID = 9999  # file names have four digits
OCCLUDED = 0.18  # share of images with an occluder

# First numbers of random seeds, one for each purpose, after those of person.py.
PLAN, SHOT, VIEW = range(2, 5)


# A camera's view


class Camera(NamedTuple):
  """A camera's distortion of images and errors in placing boxes.

  The background of the camera is in `SCENES`.
  """

  gains: tuple  # white balance: factors of red, green and blue
  contrast: float
  offset: float  # added brightness, grey levels
  gamma: float
  blur: float  # radius, pixels
  noise: float  # standard deviation, grey levels
  zoom: float  # a person's height relative to the box
  drift: float  # horizontal misplacement of the box, canvas pixels
  yaw: float  # main walking direction, radians


CAMERAS = (
  Camera((1.02, 1.00, 0.96), 1.00, 2, 1.00, 0.4, 3, 0.90, 0, 0.2),
  Camera((0.96, 1.04, 0.88), 0.97, 4, 0.97, 0.6, 4, 0.87, 4, 3.0),
  Camera((1.09, 0.98, 0.86), 0.98, 2, 1.00, 0.5, 4, 0.93, -4, 1.4),
  Camera((0.89, 0.99, 1.10), 0.95, 8, 0.97, 0.4, 4, 0.89, -3, 0.6),
  Camera((0.89, 0.91, 1.05), 0.90, 8, 1.08, 0.6, 6, 0.92, 3, -1.5),
  Camera((1.05, 0.95, 1.03), 0.84, 26, 1.00, 0.7, 4, 0.86, 0, 3.6),
)


class Scene(NamedTuple):
  """The background of a camera: a tiled wall, a tiled floor, and objects."""

  horizon: float  # upper end of the floor, relative to the scene's height
  wall: tuple
  bricks: tuple  # width and height of the wall's tiles, canvas pixels
  floor: tuple
  slabs: tuple  # width and height of the floor's tiles, canvas pixels
  clutter: tuple  # colours of the objects
  size: tuple  # mean width and height of the objects, canvas pixels
  round: bool  # the objects are trees, not windows


SCENES = (
  # A shopping street.
  Scene(
    0.50,
    (176, 192, 206),
    (120, 70),
    (164, 160, 152),
    (64, 22),
    ((70, 92, 116), (110, 128, 140)),
    (50, 70),
    False,
  ),
  # A park.
  Scene(
    0.42,
    (126, 150, 116),
    (40, 30),
    (116, 146, 88),
    (5, 11),
    ((80, 108, 76), (98, 124, 82), (110, 96, 80)),
    (60, 90),
    True,
  ),
  # A brick wall.
  Scene(
    0.74,
    (158, 118, 102),
    (36, 16),
    (136, 130, 124),
    (90, 40),
    ((92, 66, 58), (186, 176, 160)),
    (44, 80),
    False,
  ),
  # A hall with posters.
  Scene(
    0.46,
    (206, 208, 202),
    (60, 60),
    (178, 186, 188),
    (46, 30),
    ((226, 176, 96), (96, 150, 180), (120, 120, 124)),
    (56, 60),
    False,
  ),
  # A lit street at dusk.
  Scene(
    0.55,
    (76, 82, 110),
    (90, 60),
    (100, 100, 114),
    (120, 30),
    ((240, 206, 110), (250, 236, 190), (30, 34, 50)),
    (26, 40),
    False,
  ),
  # A square with flower beds.
  Scene(
    0.36,
    (196, 182, 142),
    (30, 90),
    (172, 124, 100),
    (34, 34),
    ((140, 80, 80), (226, 222, 206), (84, 112, 96)),
    (70, 44),
    True,
  ),
)


@functools.lru_cache(maxsize=12)
def draw_scene(seed, camera):
  """Draws the background of a camera, from which images are cropped.

  Args:
    seed: seed of the data set.
    camera: number of the camera, 1 to 6.

  Returns:
    RGB image, `SCENE` (width, height) pixels large.
  """
  rng = np.random.default_rng([VIEW, seed, camera])
  scene = SCENES[camera - 1]
  view = Image.new('RGB', SCENE)
  draw = ImageDraw.Draw(view)
  wide, tall = SCENE
  horizon = int(tall * scene.horizon)
  draw_tiles(draw, rng, (0, horizon), scene.wall, scene.bricks)
  draw_tiles(draw, rng, (horizon, tall), scene.floor, scene.slabs)
  for x in range(0, wide, int(scene.size[0] * 1.6)):
    width, height = rng.normal(scene.size, np.array(scene.size) * 0.25)
    x, base = x + rng.normal(0, 12), horizon + rng.normal(0, 8)
    base -= 0 if scene.round else horizon * rng.uniform(0, 0.4)
    box = (x, base - abs(height) - 5, x + abs(width) + 5, base)
    colour = person.pick(rng, scene.clutter)
    shape = draw.ellipse if scene.round else draw.rectangle
    shape(box, colour, person.shade(colour, 0.7), 3)
  return view


def draw_tiles(draw, rng, rows, colour, size):
  """Fills a horizontal band of an image with tiles in slightly different tones.

  Args:
    draw: `ImageDraw` of the image.
    rng: NumPy random generator.
    rows: first and last pixel row of the band.
    colour: mean RGB colour.
    size: width and height of a tile, in pixels.
  """
  for i, y in enumerate(range(*rows, size[1])):
    for x in range(-(i % 2) * size[0] // 2, SCENE[0], size[0]):
      tone = person.shade(colour, rng.normal(1, 0.05))
      box = (x, y, x + size[0], min(y + size[1], rows[1]))
      draw.rectangle(box, tone, person.shade(tone, 0.88))


def draw_occluder(canvas, rng, seed):
  """Draws a random object that hides about a fifth of an image."""
  draw = ImageDraw.Draw(canvas)
  wide, tall = canvas.size
  x = rng.uniform(0.1, 0.9) * wide
  kind = person.pick(rng, ('pole', 'bicycle', 'bush', 'person'))
  if kind == 'pole':
    draw.rectangle((x - 6, 0, x + 6, tall), (96, 100, 104), (60, 62, 66), 2)
  elif kind == 'bicycle':
    hubs = ((x - 42, tall - 34), (x + 42, tall - 34))
    for a, b in hubs:
      draw.ellipse((a - 30, b - 30, a + 30, b + 30), None, (34, 34, 36), 5)
    frame = (hubs[0], (x - 18, tall - 84), (x + 30, tall - 84), hubs[1])
    draw.line(frame, person.pick(rng, person.UPPERS), 5)
  elif kind == 'bush':
    for a, b, r in rng.uniform((-44, -40, 12), (44, 10, 26), (16, 3)):
      box = (x + a - r, tall + b - r, x + a + r, tall + b + r)
      draw.ellipse(box, person.shade((62, 112, 54), rng.uniform(0.7, 1.2)))
  else:
    x = wide * person.pick(rng, (-0.08, 1.08))
    yaw, stride = rng.uniform(0, 6.28), rng.uniform(-1, 1)
    pose = person.Pose(x, 24, tall, yaw, stride, lean=0)
    person.draw_person(canvas, person.make_look(seed, stranger(rng)), pose)


def photograph(canvas, camera, rng):
  """Applies a camera's reduction, blur, tint and noise to a drawn image.

  Args:
    canvas: image of `CANVAS` (width, height) pixels.
    camera: a `Camera`.
    rng: NumPy random generator.

  Returns:
    RGB image, `WIDTH` x `HEIGHT` pixels large.
  """
  radius = camera.blur * rng.uniform(0.6, 1.4)
  image = canvas.reduce(SUPERSAMPLING)
  image = image.filter(ImageFilter.GaussianBlur(radius))
  light = np.linspace(0, 1, 256, dtype=np.float32)[:, None] ** camera.gamma
  gains = np.array(camera.gains) * rng.normal(1, 0.03, 3)
  light = light * 255 * camera.contrast * rng.uniform(0.88, 1.1) * gains
  table = (light + camera.offset).astype(np.float32)
  pixels = table[np.asarray(image), np.arange(3)]
  grain = rng.standard_normal(pixels.shape, np.float32)
  pixels = pixels + camera.noise * grain
  return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


# Images


class Shot(NamedTuple):
  """One image to draw: its folder, and the fields of its file name."""

  folder: str
  pid: int
  camera: int  # 1 to 6
  sequence: int
  frame: int
  box: int

  @property
  def name(self):
    pid = f'{self.pid:04d}' if self.pid >= 0 else '-1'
    return (
      f'{pid}_c{self.camera}s{self.sequence}_{self.frame:06d}'
      f'_{self.box:02d}.jpg'
    )


def stranger(rng):
  """Returns the index of a random look that no identity has.

  Identity p has the look with index p - 1.
  """
  return MAX_PID + int(rng.integers(1000))


def draw_shot(seed, shot, occluded=OCCLUDED):
  """Draws one image, which depends on the arguments alone.

  Args:
    seed: seed of the data set.
    shot: `Shot` with the identity, camera and numbers of the image.
    occluded: probability of an occluder.
  """
  rng = np.random.default_rng(
    [SHOT, seed, shot.pid + 1, shot.camera, shot.frame]
  )
  camera = CAMERAS[shot.camera - 1]
  scene = draw_scene(seed, shot.camera)
  x, y = rng.integers(0, np.subtract(SCENE, CANVAS))
  canvas = scene.crop((x, y, x + CANVAS[0], y + CANVAS[1]))
  index = shot.pid - 1 if shot.pid > 0 else stranger(rng)
  empty = {DISTRACTOR: 0.25, JUNK: 0.3}.get(shot.pid, 0)
  if rng.random() >= empty:
    pose = make_pose(rng, camera, cut=shot.pid == JUNK)
    person.draw_person(canvas, person.make_look(seed, index), pose)
  if rng.random() < occluded:
    draw_occluder(canvas, rng, seed)
  return photograph(canvas, camera, rng)


def make_pose(rng, camera, cut):
  """Returns a random pose of a person in a camera's image.

  Args:
    rng: NumPy random generator.
    camera: a `Camera`.
    cut: whether the image shows only a fragment of the person.
  """
  wide, tall = CANVAS
  zoom = camera.zoom * rng.uniform(0.94, 1.07)
  x = wide / 2 + camera.drift + rng.normal(0, 5)
  base = tall * rng.uniform(0.95, 1.02)
  if cut:
    zoom *= rng.uniform(0.7, 2.2)
    x = wide * person.pick(rng, (-0.05, 0.1, 0.9, 1.05))
    base = tall * rng.uniform(0.5, 1.8)
  return person.Pose(
    x=x,
    top=base - zoom * tall,
    height=zoom * tall,
    yaw=camera.yaw + rng.normal(0, 0.9),
    stride=rng.uniform(-1, 1),
    lean=rng.normal(0, 0.03),
  )


# The data set


def plan_shots(seed, train_identities, test_identities, distractors, junk):
  """Lists the images to draw for a data set, as `Shot` tuples.

  The images of an identity do not depend on other identities. For the
  arguments, see `draw_dataset`.
  """
  shots = []
  for pid in range(1, train_identities + test_identities + 1):
    shots += plan_identity(seed, pid, pid > train_identities)
  for pid, count in ((DISTRACTOR, distractors), (JUNK, junk)):
    rng = np.random.default_rng([PLAN, seed, pid + 1])
    shots += [
      Shot(GALLERY, pid, int(rng.integers(1, 7)), 1, frame, 1)
      for frame in range(1, count + 1)
    ]
  return shots


def plan_identity(seed, pid, test):
  """Lists the images to draw of an identity, as `Shot` tuples.

  Of a test identity, the first image under each camera is a query. There are at
  least two images under each of at least three cameras, so that every query has
  a match under another camera.

  Args:
    seed: seed of the data set.
    pid: the identity, from 1.
    test: whether the identity is tested on, not trained on.
  """
  rng = np.random.default_rng([PLAN, seed, pid + 1])
  count = person.pick(rng, (3, 3, 4, 4, 5, 6))
  shots = []
  for camera in sorted(rng.permutation(6)[:count] + 1):
    first, sequence = rng.integers((1, 1), (100_000, 4))
    for i in range(rng.integers(2 if test else 1, 4)):
      folder = TRAIN if not test else GALLERY if i else QUERY
      frame = int(first) + 25 * i
      shots.append(Shot(folder, pid, int(camera), int(sequence), frame, i))
  return shots


def draw_dataset(
  root,
  seed=0,
  train_identities=300,
  test_identities=100,
  distractors=150,
  junk=100,
  occluded_queries=OCCLUDED,
  progress=True,
):
  """Draws a data set into a new folder.

  The same arguments give the same files, with the same versions of NumPy and
  Pillow. The images are drawn elsewhere and moved to `root` at the end, so that
  an interrupted run leaves no incomplete data set. One process at a time draws
  into a folder, about 400 images a second, which is fast enough.

  Args:
    root: the folder to make; it may exist if it is empty, hidden files aside.
    seed: seed of all random choices, not negative.
    train_identities: number of people in bounding_box_train, at least 1.
    test_identities: number of other people in query and bounding_box_test,
      at least 1.
    distractors: number of images with pid 0 in bounding_box_test.
    junk: number of images with pid -1 in bounding_box_test.
    occluded_queries: share of queries with an occluder, 0 to 1. All other
      images stay the same.
    progress: whether to show a progress bar.

  Raises:
    UserError: a number is out of range, or `root` is not an empty folder.
    OSError: the folder cannot be written to.
  """
  check_least(0, seed=seed, distractors=distractors, junk=junk)
  check_least(
    1, train_identities=train_identities, test_identities=test_identities
  )
  if not 0 <= occluded_queries <= 1:
    raise UserError(f'occluded_queries must be from 0 to 1: {occluded_queries}')
  if train_identities + test_identities > MAX_PID:
    raise UserError(
      f'train_identities + test_identities must be at most {MAX_PID}: '
      f'{train_identities} + {test_identities}'
    )
  root = Path(root).resolve()
  check_is_missing(root)
  shots = plan_shots(seed, train_identities, test_identities, distractors, junk)
  root.parent.mkdir(parents=True, exist_ok=True)
  with locking.locked(lock_file(root), f'draw {root}', keep=False):
    check_is_missing(root)  # another process may have drawn it meanwhile
    with new_parts(root) as part:
      for shot in tqdm(shots, 'Drawing', disable=not progress, unit='image'):
        path = part / shot.folder / shot.name
        occluded = occluded_queries if shot.folder == QUERY else OCCLUDED
        draw_shot(seed, shot, occluded).save(path, quality=90)


def is_missing(root):
  """Returns whether a folder does not exist or has no files.

  Files that are hidden or of the system, as `lost+found`, do not count.
  """
  if not root.exists():
    return True
  return root.is_dir() and all(is_hidden(path.name) for path in root.iterdir())


def check_is_missing(root):
  """Raises UserError if something is where a data set is to be drawn."""
  if not is_missing(root):
    raise UserError(f'root is not an empty folder: {root}')


def lock_file(root):
  """Returns the file to lock while a folder is drawn."""
  if root.is_dir() and not os.access(root.parent, os.W_OK):
    return root / '.lock'  # beside a mount point, only root may write
  return root.parent / f'.{root.name}.lock'


@contextlib.contextmanager
def new_parts(root):
  """Makes the folders of a data set, which are moved to `root` at the end.

  An existing root stays, as it may be a mount point. Then the folders are made
  in a hidden folder in it, on the same disk.
  """
  there = root.is_dir()
  place = {'prefix': f'.{root.name}.', 'dir': root if there else root.parent}
  with tempfile.TemporaryDirectory(**place) as folder:
    part = Path(folder) / root.name
    for name in (TRAIN, QUERY, GALLERY):
      (part / name).mkdir(parents=True)
    yield part
    if there:
      for path in part.iterdir():
        path.rename(root / path.name)
    else:
      part.rename(root)


def check_least(least, **arguments):
  """Raises UserError if an argument is less than `least`."""
  for name, value in arguments.items():
    if value < least:
      raise UserError(f'{name} must be at least {least}: {value}')


def main(arguments=None):
  """Runs the command."""
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n')[0],
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument('root', type=Path, help='folder to make')
  numbers = (
    ('--seed', 0, 'seed of all random choices'),
    ('--train-identities', 300, 'number of people to train on'),
    ('--test-identities', 100, 'number of people to search for'),
    ('--distractors', 150, 'number of gallery images with pid 0'),
    ('--junk', 100, 'number of gallery images with pid -1'),
  )
  for flag, default, text in numbers:
    parser.add_argument(flag, type=int, default=default, help=text)
  parser.add_argument(
    '--occluded-queries', type=float, default=OCCLUDED,
    help='share of queries with an occluder',
  )  # fmt: skip
  parser.add_argument(
    '--no-progress', dest='progress', action='store_false',
    default=argparse.SUPPRESS, help='show no progress bar',
  )  # fmt: skip
  options = parser.parse_args(arguments)
  try:
    draw_dataset(**vars(options))
  except (UserError, OSError) as error:
    parser.error(printable(str(error)))


if __name__ == '__main__':
  main()
