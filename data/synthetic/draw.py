"""Draws a small person re-identification set in Market-1501's layout.

Every image is a cartoon pedestrian in a detector's box: an *identity* is a
set of clothes, hair, bag and build; a *camera* is a scene, a colour cast and
a habit of placing boxes; an image adds a walking pose, a viewpoint and at
times an occluder. The cameras differ so much that comparing raw pixels finds
the camera rather than the person, whereas the clothes tell the identities
apart: a network has something to learn and can learn it within minutes.

  python -m data.synthetic.draw DIR --seed 0
"""

import argparse
import functools
import itertools
import math
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

HEIGHT, WIDTH = 128, 64  # of a written image, pixels
SUPERSAMPLING = 2  # drawn this much larger: ImageDraw does not antialias
CANVAS = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
SCENE = (1024, CANVAS[1] + 48)  # a camera's view, which images crop
TRAIN, QUERY, GALLERY = 'bounding_box_train', 'query', 'bounding_box_test'
DISTRACTOR, JUNK = 0, -1  # Market-1501's two special pids
MAX_PID = 9999  # a file name has room for four digits

# First entries of the random generators' seeds: one stream for each purpose.
LOOK, DECK, PLAN, SHOT, VIEW = range(5)

UPPERS = (
  (238, 238, 232), (28, 28, 32), (130, 132, 136), (205, 30, 40),
  (245, 130, 25), (245, 215, 45), (35, 150, 65), (25, 175, 175),
  (35, 75, 205), (125, 50, 165), (245, 130, 175), (115, 70, 40),
  (135, 190, 245),
)
LOWERS = (
  (30, 30, 36), (232, 228, 215), (120, 122, 128), (50, 85, 160),
  (196, 166, 112), (170, 35, 45), (70, 100, 45), (105, 65, 40),
  (150, 90, 170),
)
SKINS = ((250, 214, 186), (226, 176, 136), (168, 114, 78), (104, 68, 48))
HAIRS = (
  (30, 24, 22), (92, 56, 30), (222, 184, 96), (168, 74, 34), (176, 176, 178),
)
PATTERNS = ('plain', 'rows', 'columns', 'checks', 'logo', 'halves')


class Look(NamedTuple):
  """What an identity wears and is: the same in all of its images."""

  upper: tuple
  second: tuple  # the pattern's other colour
  pattern: str
  step: int  # of the pattern, canvas pixels
  long_sleeves: bool
  lower: tuple
  garment: str
  shoes: tuple
  skin: tuple
  hair: tuple
  hair_style: str
  hat: tuple
  bag: str
  bag_colour: tuple
  height: float  # relative to the average
  girth: float  # relative to the average


class Pose(NamedTuple):
  """How a person stands in one image; lengths in canvas pixels."""

  x: float  # of the body's middle
  top: float
  height: float  # of an average person
  yaw: float  # radians: 0 faces the camera, pi / 2 walks to the right
  stride: float  # -1 to 1: which leg is ahead, and how far
  lean: float


class Camera(NamedTuple):
  """The way a camera distorts what it sees; its scene is in SCENES."""

  gains: tuple  # of red, green and blue: the white balance
  contrast: float
  offset: float  # added brightness, grey levels
  gamma: float
  blur: float  # radius, pixels
  noise: float  # standard deviation, grey levels
  zoom: float  # a person's height relative to the box
  drift: float  # sideways misplacement of the box, canvas pixels
  yaw: float  # the direction people mostly walk in, radians


CAMERAS = (
  Camera((1.02, 1.00, 0.96), 1.00, 2, 1.00, 0.4, 3, 0.90, 0, 0.2),
  Camera((0.96, 1.04, 0.88), 0.97, 4, 0.97, 0.6, 4, 0.87, 4, 3.0),
  Camera((1.09, 0.98, 0.86), 0.98, 2, 1.00, 0.5, 4, 0.93, -4, 1.4),
  Camera((0.89, 0.99, 1.10), 0.95, 8, 0.97, 0.4, 4, 0.89, -3, 0.6),
  Camera((0.89, 0.91, 1.05), 0.90, 8, 1.08, 0.6, 6, 0.92, 3, -1.5),
  Camera((1.05, 0.95, 1.03), 0.84, 26, 1.00, 0.7, 4, 0.86, 0, 3.6),
)


# Identities


@functools.lru_cache(maxsize=64)
def deck(seed, number):
  """All pairs of an upper and a lower colour, shuffled."""
  pairs = list(itertools.product(UPPERS, LOWERS))
  order = np.random.default_rng([DECK, seed, number]).permutation(len(pairs))
  return [pairs[i] for i in order]


@functools.lru_cache(maxsize=4096)
def make_look(seed, index):
  """The look of identity `index`.

  Colour pairs are dealt from shuffled decks instead of drawn independently,
  so that two of about a hundred consecutive identities never share one.
  """
  rng = np.random.default_rng([LOOK, seed, index])
  size = len(UPPERS) * len(LOWERS)
  upper, lower = deck(seed, index // size)[index % size]
  return Look(
    upper=vary(rng, upper),
    second=vary(rng, pick(rng, [c for c in UPPERS if gap(c, upper) > 180])),
    pattern=pick(rng, PATTERNS),
    step=int(rng.integers(8, 15)),
    long_sleeves=rng.random() < 0.5,
    lower=vary(rng, lower),
    garment=pick(rng, ('trousers', 'trousers', 'shorts', 'skirt')),
    shoes=pick(rng, UPPERS),
    skin=pick(rng, SKINS),
    hair=pick(rng, HAIRS),
    hair_style=pick(rng, ('short', 'short', 'long', 'long', 'bald', 'hat')),
    hat=pick(rng, UPPERS),
    bag=pick(rng, ('none', 'backpack', 'shoulder', 'hand')),
    bag_colour=pick(rng, UPPERS),
    height=rng.uniform(0.92, 1.06),
    girth=rng.uniform(0.85, 1.25),
  )


def pick(rng, options):
  return options[int(rng.integers(len(options)))]


def vary(rng, colour):
  return tuple(int(v) for v in np.clip(rng.normal(colour, 6), 0, 255))


def gap(a, b):
  return sum(abs(x - y) for x, y in zip(a, b, strict=True))


def shade(colour, factor):
  return tuple(min(255, int(v * factor)) for v in colour)


# A person


class Body:
  """One person's coordinates and brushes.

  Points and widths are relative to the person's height: x from the middle
  of the body to the right, y from the top of the head down to the soles.
  """

  def __init__(self, canvas, look, pose):
    self.canvas, self.look, self.pose = canvas, look, pose
    self.draw = ImageDraw.Draw(canvas)
    self.size = pose.height * look.height
    self.top = pose.top + pose.height - self.size  # feet stay on the ground
    self.front, self.side = math.cos(pose.yaw), math.sin(pose.yaw)
    # A body is about 0.65 times as deep as it is wide.
    self.girth = look.girth * math.hypot(self.front, 0.65 * self.side)

  def at(self, x, y):
    x += self.pose.lean * (1 - y)
    return self.pose.x + x * self.size, self.top + y * self.size

  def limb(self, points, width, colour):
    """A bent tube through `points`, with an outline in a darker tone."""
    points = [self.at(*p) for p in points]
    width *= self.size
    for wide, tone in ((width + 3, shade(colour, 0.6)), (width, colour)):
      self.draw.line(points, tone, round(wide))
      for x, y in points:
        r = wide / 2 - 0.5
        self.draw.ellipse((x - r, y - r, x + r, y + r), tone)

  def ellipse(self, x, y, rx, ry, colour, outline=0.6):
    (x, y), rx, ry = self.at(x, y), rx * self.size, ry * self.size
    edge = shade(colour, outline)
    self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), colour, edge, 2)

  def block(self, x, y, width, height, colour):
    (x, y), rx = self.at(x, y), width * self.size / 2
    box = (x - rx, y, x + rx, y + height * self.size)
    self.draw.rounded_rectangle(box, 5, colour, shade(colour, 0.55), 2)

  def shape(self, points, colour):
    points = [self.at(*p) for p in points]
    self.draw.polygon(points, colour, shade(colour, 0.6), 2)


def draw_person(canvas, look, pose):
  """Draws a person, what is farthest from the camera first."""
  body = Body(canvas, look, pose)
  body.draw.ellipse((*body.at(-0.2, 0.965), *body.at(0.2, 1.02)), (48, 46, 46))
  near = 1 if body.side < 0 else -1
  # What is on the back comes first in a person who faces the camera.
  behind = body.front < -0.3
  if not behind:
    draw_back(body)
  draw_arm(body, -near, 0.8)
  draw_leg(body, -near, 0.8)
  draw_leg(body, near, 1)
  if look.garment == 'skirt':
    draw_skirt(body)
  draw_torso(body)
  if look.bag == 'backpack' and body.front > 0.3:
    draw_straps(body)
  if look.bag == 'shoulder':
    draw_shoulder_bag(body)
  draw_head(body)
  draw_arm(body, near, 1)
  if behind:
    draw_back(body)


def draw_back(body):
  if body.look.bag == 'backpack':
    draw_backpack(body)
  if body.look.hair_style == 'long':
    end = (-0.035 * body.side, 0.2)
    body.limb(((-0.015 * body.side, 0.08), end), 0.125, body.look.hair)


def draw_leg(body, side, light):
  look, phase = body.look, side * body.pose.stride
  swing = 0.12 * phase * body.side
  lift = 0.03 * max(0, -phase)  # of the foot behind
  hip = (side * 0.05 * body.girth * abs(body.front), 0.52)
  knee = (hip[0] * 1.1 + swing * 0.7 + 0.01 * body.side, 0.74 - lift)
  foot = (hip[0] * 1.1 + swing * 1.5, 0.955 - lift)
  width = 0.085 * look.girth**0.5
  cloth, skin = shade(look.lower, light), shade(look.skin, light)
  shoes = shade(look.shoes, light)
  body.ellipse(foot[0] + 0.025 * body.side, 0.968 - lift, 0.05, 0.026, shoes)
  if look.garment == 'trousers':
    body.limb((hip, knee, foot), width, cloth)
  else:
    body.limb((knee, foot), width * 0.7, skin)
    body.limb((hip, knee), width * 1.15, cloth)
  body.ellipse(foot[0] + 0.03 * body.side, 0.975 - lift, 0.05, 0.024, shoes)


def draw_skirt(body):
  waist, hem = 0.085 * body.girth, 0.15 * body.girth
  hem += 0.03 * abs(body.pose.stride)
  body.shape(
    ((-waist, 0.48), (waist, 0.48), (hem, 0.75), (-hem, 0.75)),
    body.look.lower,
  )


def draw_arm(body, side, light):
  look, swing = body.look, -side * body.pose.stride * body.side
  x = side * 0.108 * body.girth * max(abs(body.front), 0.25)
  out = side * 0.03 * abs(body.front)
  shoulder = (x, 0.215)
  elbow = (x + out + 0.07 * swing, 0.36)
  hand = (x + out + 0.14 * swing + 0.03 * body.side, 0.49 - abs(swing) * 0.03)
  cloth, skin = shade(look.upper, light), shade(look.skin, light)
  if look.bag == 'hand' and side == 1:
    grip = (*body.at(hand[0] - 0.04, 0.47), *body.at(hand[0] + 0.04, 0.6))
    body.draw.arc(grip, 180, 360, shade(look.bag_colour, 0.6), 3)
    body.block(hand[0], 0.54, 0.15, 0.12, look.bag_colour)
  body.limb((elbow, hand), 0.05, skin)
  sleeve = (shoulder, elbow, (hand[0], hand[1] - 0.03))
  body.limb(sleeve if look.long_sleeves else sleeve[:2], 0.064, cloth)


def draw_torso(body):
  """The upper garment: its pattern, cut out by the torso's outline."""
  look, girth = body.look, body.girth
  wide, waist = 0.118 * girth, 0.098 * girth
  body.limb(((0, 0.12), (0, 0.18)), 0.06, shade(look.skin, 0.85))
  half = (
    (0.045, 0.163), (wide * 0.9, 0.178), (wide, 0.215), (waist, 0.4),
    (waist, 0.53),
  )
  outline = [body.at(x, y) for x, y in half]
  outline += [body.at(-x, y) for x, y in reversed(half)]
  left, top = (math.floor(min(p[i] for p in outline)) for i in (0, 1))
  right, base = (math.ceil(max(p[i] for p in outline)) for i in (0, 1))
  size = (right - left + 1, base - top + 1)
  mask = Image.new('L', size)
  local = [(x - left, y - top) for x, y in outline]
  ImageDraw.Draw(mask).polygon(local, 255)
  body.canvas.paste(draw_cloth(look, size, body), (left, top), mask)
  body.draw.line([*outline, outline[0]], shade(look.upper, 0.6), 2)


def draw_cloth(look, size, body):
  cloth = Image.new('RGB', size, look.upper)
  draw = ImageDraw.Draw(cloth)
  (width, height), step, second = size, look.step, look.second
  if look.pattern in ('rows', 'checks'):
    for y in range(step, height, 2 * step):
      draw.rectangle((0, y, width, y + step - 1), second)
  if look.pattern in ('columns', 'checks'):
    for x in range(width // 2 % step - step, width, 2 * step):
      draw.rectangle((x, 0, x + step - 1, height), second)
  if look.pattern == 'halves':
    draw.rectangle((0, height // 2, width, height), second)
  if look.pattern == 'logo' and body.front > 0:
    middle = width * (0.5 + 0.25 * body.side)
    half = width * 0.27 * body.front
    rows = (height * 0.25, height * 0.6)
    draw.rectangle((middle - half, rows[0], middle + half, rows[1]), second)
  return cloth


def draw_head(body):
  look, front, side = body.look, body.front, body.side
  bald = look.hair_style == 'bald'
  body.ellipse(0, 0.075, 0.062, 0.072, look.skin if bald else look.hair)
  if front > -0.5:
    x = 0.022 * side
    wide = 0.052 if front > 0.3 else 0.04
    body.ellipse(x, 0.092, wide, 0.055, look.skin, 0.85)
    for eye in (-0.02, 0.02):
      if front > 0.3 or eye * side > 0:
        body.ellipse(x * 1.6 + eye, 0.088, 0.007, 0.009, (30, 26, 26))
  if look.hair_style == 'hat':
    box = (*body.at(-0.066, -0.005), *body.at(0.066, 0.115))
    body.draw.pieslice(box, 180, 360, look.hat, shade(look.hat, 0.6), 2)
    if front > -0.5:
      body.block(0.05 * side, 0.045, 0.14, 0.02, look.hat)


def draw_backpack(body):
  colour = body.look.bag_colour
  width = 0.19 * math.hypot(body.front, 0.7 * body.side) * body.look.girth
  x = -0.125 * body.side
  body.block(x, 0.19, width, 0.24, colour)
  body.block(x, 0.31, width * 0.7, 0.09, shade(colour, 0.8))


def draw_straps(body):
  for sign in (-1, 1):
    x = (0.07 * sign + 0.03 * body.side) * body.girth
    body.limb(((x, 0.18), (x * 1.1, 0.33)), 0.024, body.look.bag_colour)


def draw_shoulder_bag(body):
  x = math.copysign(0.1, body.front) * body.girth
  colour = body.look.bag_colour
  strap = (body.at(-x * 0.7, 0.18), body.at(x, 0.45))
  body.draw.line(strap, shade(colour, 0.7), 5)
  body.block(x, 0.43, 0.15, 0.13, colour)


# A camera's view


class Scene(NamedTuple):
  """A tiled wall above a tiled floor, and things standing on the floor."""

  horizon: float  # where the floor begins, relative to the scene's height
  wall: tuple
  bricks: tuple  # width and height of the wall's tiles, canvas pixels
  floor: tuple
  slabs: tuple  # width and height of the floor's tiles, canvas pixels
  clutter: tuple  # colours of the things
  size: tuple  # mean width and height of the things, canvas pixels
  round: bool  # trees rather than windows


SCENES = (
  Scene(0.50, (176, 192, 206), (120, 70), (164, 160, 152), (64, 22),
        ((70, 92, 116), (110, 128, 140)), (50, 70), False),
  Scene(0.42, (126, 150, 116), (40, 30), (116, 146, 88), (5, 11),
        ((80, 108, 76), (98, 124, 82), (110, 96, 80)), (60, 90), True),
  Scene(0.74, (158, 118, 102), (36, 16), (136, 130, 124), (90, 40),
        ((92, 66, 58), (186, 176, 160)), (44, 80), False),
  Scene(0.46, (206, 208, 202), (60, 60), (178, 186, 188), (46, 30),
        ((226, 176, 96), (96, 150, 180), (120, 120, 124)), (56, 60), False),
  Scene(0.55, (76, 82, 110), (90, 60), (100, 100, 114), (120, 30),
        ((240, 206, 110), (250, 236, 190), (30, 34, 50)), (26, 40), False),
  Scene(0.36, (196, 182, 142), (30, 90), (172, 124, 100), (34, 34),
        ((140, 80, 80), (226, 222, 206), (84, 112, 96)), (70, 44), True),
)


@functools.lru_cache(maxsize=12)
def draw_scene(seed, camera):
  """The wide view of camera 1 to 6, of which every image shows a crop."""
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
    colour = pick(rng, scene.clutter)
    shape = draw.ellipse if scene.round else draw.rectangle
    shape(box, colour, shade(colour, 0.7), 3)
  return view


def draw_tiles(draw, rng, rows, colour, size):
  for i, y in enumerate(range(*rows, size[1])):
    for x in range(-(i % 2) * size[0] // 2, SCENE[0], size[0]):
      tone = shade(colour, rng.normal(1, 0.05))
      box = (x, y, x + size[0], min(y + size[1], rows[1]))
      draw.rectangle(box, tone, shade(tone, 0.88))


def draw_occluder(canvas, rng, seed):
  """Something in front of the person: it hides a fifth or so of the box."""
  draw = ImageDraw.Draw(canvas)
  wide, tall = canvas.size
  x = rng.uniform(0.1, 0.9) * wide
  kind = pick(rng, ('pole', 'bicycle', 'bush', 'person'))
  if kind == 'pole':
    draw.rectangle((x - 6, 0, x + 6, tall), (96, 100, 104), (60, 62, 66), 2)
  elif kind == 'bicycle':
    hubs = ((x - 42, tall - 34), (x + 42, tall - 34))
    for a, b in hubs:
      draw.ellipse((a - 30, b - 30, a + 30, b + 30), None, (34, 34, 36), 5)
    frame = (hubs[0], (x - 18, tall - 84), (x + 30, tall - 84), hubs[1])
    draw.line(frame, pick(rng, UPPERS), 5)
  elif kind == 'bush':
    for a, b, r in rng.uniform((-44, -40, 12), (44, 10, 26), (16, 3)):
      box = (x + a - r, tall + b - r, x + a + r, tall + b + r)
      draw.ellipse(box, shade((62, 112, 54), rng.uniform(0.7, 1.2)))
  else:
    x = wide * pick(rng, (-0.08, 1.08))
    pose = Pose(x, 24, tall, rng.uniform(0, 6.28), rng.uniform(-1, 1), 0)
    draw_person(canvas, make_look(seed, stranger(rng)), pose)


def photograph(canvas, camera, rng):
  """The image a camera takes: small, blurred, tinted and noisy."""
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
  """One image to draw: where it goes, and the seed of its contents."""

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
  """The index of a look that no pid has."""
  return MAX_PID + int(rng.integers(1000))


def draw_shot(seed, shot):
  """The image of a shot: a function of the seed and the shot alone."""
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
    draw_person(canvas, make_look(seed, index), pose)
  if rng.random() < 0.18:
    draw_occluder(canvas, rng, seed)
  return photograph(canvas, camera, rng)


def make_pose(rng, camera, cut):
  """A pose in a camera's box; `cut` is one that shows only a fragment."""
  wide, tall = CANVAS
  zoom = camera.zoom * rng.uniform(0.94, 1.07)
  x = wide / 2 + camera.drift + rng.normal(0, 5)
  base = tall * rng.uniform(0.95, 1.02)
  if cut:
    zoom *= rng.uniform(0.7, 2.2)
    x = wide * pick(rng, (-0.05, 0.1, 0.9, 1.05))
    base = tall * rng.uniform(0.5, 1.8)
  return Pose(
    x=x,
    top=base - zoom * tall,
    height=zoom * tall,
    yaw=camera.yaw + rng.normal(0, 0.9),
    stride=rng.uniform(-1, 1),
    lean=rng.normal(0, 0.03),
  )


# The data set


def plan_shots(seed, train_identities, test_identities, distractors, junk):
  """The list of all shots; those of an identity depend on no other."""
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
  """An identity's shots; in a test one, each camera's first is the query.

  A test identity has two or more images under each of three or more cameras,
  so every query has a match under another camera.
  """
  rng = np.random.default_rng([PLAN, seed, pid + 1])
  count = pick(rng, (3, 3, 4, 4, 5, 6))
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
  progress=True,
):
  """Draws a data set into a new folder.

  The same arguments give the same bytes (with the same versions of NumPy and
  Pillow). The images are drawn beside `root` and moved there at the end, so
  an interrupted drawing never looks like a finished one.

  Args:
    root: the folder to make; it may exist if it is empty.
    seed: non-negative integer that all randomness comes from.
    train_identities: number of people in bounding_box_train, at least 1.
    test_identities: number of other people in query and bounding_box_test,
      at least 1.
    distractors: number of images with pid 0 in bounding_box_test.
    junk: number of images with pid -1 in bounding_box_test.
    progress: whether to show a progress bar.

  Raises:
    ValueError: if a number is out of range or `root` is not an empty folder.
  """
  check_least(0, seed=seed, distractors=distractors, junk=junk)
  check_least(
    1, train_identities=train_identities, test_identities=test_identities
  )
  if train_identities + test_identities > MAX_PID:
    raise ValueError(
      f'train_identities + test_identities exceed {MAX_PID}: '
      f'{train_identities} + {test_identities}'
    )
  root = Path(root).absolute()
  if root.exists() and (not root.is_dir() or any(root.iterdir())):
    raise ValueError(f'root is not an empty folder: {root}')
  shots = plan_shots(seed, train_identities, test_identities, distractors, junk)
  root.parent.mkdir(parents=True, exist_ok=True)
  prefix = f'.{root.name}.'
  with tempfile.TemporaryDirectory(prefix=prefix, dir=root.parent) as folder:
    part = Path(folder) / root.name
    for name in (TRAIN, QUERY, GALLERY):
      (part / name).mkdir(parents=True)
    for shot in tqdm(shots, 'Drawing', disable=not progress, unit='image'):
      path = part / shot.folder / shot.name
      draw_shot(seed, shot).save(path, quality=90)
    if root.exists():
      root.rmdir()
    part.rename(root)


def check_least(least, **arguments):
  for name, value in arguments.items():
    if value < least:
      raise ValueError(f'{name} must be at least {least}: {value}')


def main(arguments=None):
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n')[0],
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument('root', type=Path, help='folder to make')
  numbers = (
    ('--seed', 0, 'of all randomness'),
    ('--train-identities', 300, 'people to train on'),
    ('--test-identities', 100, 'people to search for'),
    ('--distractors', 150, 'gallery images of pid 0'),
    ('--junk', 100, 'gallery images of pid -1'),
  )
  for flag, default, text in numbers:
    parser.add_argument(flag, type=int, default=default, help=text)
  parser.add_argument('--no-progress', dest='progress', action='store_false')
  options = parser.parse_args(arguments)
  try:
    draw_dataset(**vars(options))
  except ValueError as error:
    parser.error(str(error))


if __name__ == '__main__':
  main()
