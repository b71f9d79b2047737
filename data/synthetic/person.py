"""Draws a cartoon person with the look of an identity, in a given pose."""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

# First numbers of random seeds, one for each purpose. draw.py has more of them.
LOOK, DECK = range(2)

UPPERS = (
  (238, 238, 232),
  (28, 28, 32),
  (130, 132, 136),
  (205, 30, 40),
  (245, 130, 25),
  (245, 215, 45),
  (35, 150, 65),
  (25, 175, 175),
  (35, 75, 205),
  (125, 50, 165),
  (245, 130, 175),
  (115, 70, 40),
  (135, 190, 245),
)
LOWERS = (
  (30, 30, 36),
  (232, 228, 215),
  (120, 122, 128),
  (50, 85, 160),
  (196, 166, 112),
  (170, 35, 45),
  (70, 100, 45),
  (105, 65, 40),
  (150, 90, 170),
)
SKINS = ((250, 214, 186), (226, 176, 136), (168, 114, 78), (104, 68, 48))
HAIRS = (
  (30, 24, 22),
  (92, 56, 30),
  (222, 184, 96),
  (168, 74, 34),
  (176, 176, 178),
)
PATTERNS = ('plain', 'rows', 'columns', 'checks', 'logo', 'halves')


class Look(NamedTuple):
  """Clothes, hair, bag and build of an identity, the same in all images."""

  upper: tuple
  second: tuple  # the pattern's other colour
  pattern: str
  step: int  # width of the pattern's stripes, canvas pixels
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
  height: float  # relative to an average person
  girth: float  # relative to an average person


class Pose(NamedTuple):
  """Position and posture of a person in an image; lengths in canvas pixels."""

  x: float  # middle of the body
  top: float  # top of the head of an average person
  height: float  # height of an average person
  yaw: float  # radians: 0 faces the camera, pi / 2 walks to the right
  stride: float  # -1 to 1: the sign is the leg in front, the size the step
  lean: float  # sideways shift of the head relative to the height


# Identities


@functools.lru_cache(maxsize=64)
def deck(seed, number):
  """Returns all pairs of an upper and a lower colour, shuffled.

  Args:
    seed: seed of the data set.
    number: number of the shuffle, from 0.
  """
  pairs = list(itertools.product(UPPERS, LOWERS))
  order = np.random.default_rng([DECK, seed, number]).permutation(len(pairs))
  return [pairs[i] for i in order]


@functools.lru_cache(maxsize=4096)
def make_look(seed, index):
  """Returns the look of the identity with number `index`, from 0.

  Pairs of colours are taken in turn from shuffled decks of all pairs, as cards
  are dealt, so that about a hundred consecutive identities have distinct pairs.
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
  """Returns a random element of a sequence."""
  return options[int(rng.integers(len(options)))]


def vary(rng, colour):
  """Returns an RGB colour with a little random noise."""
  return tuple(int(v) for v in np.clip(rng.normal(colour, 6), 0, 255))


def gap(a, b):
  """Returns the sum of absolute differences of two RGB colours."""
  return sum(abs(x - y) for x, y in zip(a, b, strict=True))


def shade(colour, factor):
  """Returns an RGB colour multiplied by a factor, at most 255 per channel."""
  return tuple(min(255, int(v * factor)) for v in colour)


# A person


class Body:
  """A drawing surface with coordinates relative to the body of a person.

  Points and widths are relative to the person's height: x is 0 in the middle of
  the body and increases to the right; y is 0 at the top of the head and 1 at
  the soles.
  """

  def __init__(self, canvas, look, pose):
    self.canvas, self.look, self.pose = canvas, look, pose
    self.draw = ImageDraw.Draw(canvas)
    self.size = pose.height * look.height
    self.top = pose.top + pose.height - self.size  # feet are on the ground
    self.front, self.side = math.cos(pose.yaw), math.sin(pose.yaw)
    # A body is about 0.65 times as deep as it is wide.
    self.girth = look.girth * math.hypot(self.front, 0.65 * self.side)

  def at(self, x, y):
    """Converts a point of the body to pixels of the canvas.

    Args:
      x: distance to the right of the body's axis, in heights of the person.
      y: distance below the top of the head, in heights of the person.
    """
    x += self.pose.lean * (1 - y)
    return self.pose.x + x * self.size, self.top + y * self.size

  def limb(self, points, width, colour):
    """Draws a limb: a thick line through points, with a darker outline.

    Args:
      points: points (x, y) of the body, see `at`.
      width: width of the line, in heights of the person.
      colour: RGB colour.
    """
    points = [self.at(*p) for p in points]
    width *= self.size
    for wide, tone in ((width + 3, shade(colour, 0.6)), (width, colour)):
      self.draw.line(points, tone, round(wide))
      for x, y in points:
        r = wide / 2 - 0.5
        self.draw.ellipse((x - r, y - r, x + r, y + r), tone)

  def ellipse(self, x, y, rx, ry, colour, outline=0.6):
    """Draws an ellipse with an outline.

    Args:
      x: horizontal position of the centre, see `at`.
      y: vertical position of the centre, see `at`.
      rx: horizontal radius, in heights of the person.
      ry: vertical radius, in heights of the person.
      colour: RGB colour.
      outline: brightness of the outline relative to `colour`.
    """
    (x, y), rx, ry = self.at(x, y), rx * self.size, ry * self.size
    edge = shade(colour, outline)
    self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), colour, edge, 2)

  def block(self, x, y, width, height, colour):
    """Draws a box with rounded corners and a darker outline.

    Args:
      x: horizontal middle of the box, see `at`.
      y: upper side of the box, see `at`.
      width: width, in heights of the person.
      height: height, in heights of the person.
      colour: RGB colour.
    """
    (x, y), rx = self.at(x, y), width * self.size / 2
    box = (x - rx, y, x + rx, y + height * self.size)
    self.draw.rounded_rectangle(box, 5, colour, shade(colour, 0.55), 2)

  def shape(self, points, colour):
    """Draws a polygon with a darker outline.

    Args:
      points: corners (x, y) on the body, see `at`.
      colour: RGB colour.
    """
    points = [self.at(*p) for p in points]
    self.draw.polygon(points, colour, shade(colour, 0.6), 2)


def draw_person(canvas, look, pose):
  """Draws a person on an image, beginning with the parts farthest away."""
  body = Body(canvas, look, pose)
  body.draw.ellipse((*body.at(-0.2, 0.965), *body.at(0.2, 1.02)), (48, 46, 46))
  near = 1 if body.side < 0 else -1
  # The back is drawn first, unless it is turned to the camera.
  back_visible = body.front < -0.3
  if not back_visible:
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
  if back_visible:
    draw_back(body)


def draw_back(body):
  """Draws the backpack and the long hair of a person who has them."""
  if body.look.bag == 'backpack':
    draw_backpack(body)
  if body.look.hair_style == 'long':
    end = (-0.035 * body.side, 0.2)
    body.limb(((-0.015 * body.side, 0.08), end), 0.125, body.look.hair)


def draw_leg(body, side, light):
  look, phase = body.look, side * body.pose.stride
  swing = 0.12 * phase * body.side
  lift = 0.03 * max(0, -phase)  # the rear foot is lifted
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
  """Draws the upper garment: cloth cut to the outline of the torso."""
  look, girth = body.look, body.girth
  wide, waist = 0.118 * girth, 0.098 * girth
  body.limb(((0, 0.12), (0, 0.18)), 0.06, shade(look.skin, 0.85))
  half = (
    (0.045, 0.163),
    (wide * 0.9, 0.178),
    (wide, 0.215),
    (waist, 0.4),
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
  """Draws a rectangle of cloth with the pattern of the upper garment.

  Args:
    look: `Look` of the person.
    size: width and height of the rectangle, in pixels.
    body: `Body` of the person; its direction decides where a logo is.
  """
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
