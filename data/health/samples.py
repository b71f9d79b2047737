"""Draws a picture with a few images of each split."""

import collections
import random

from PIL import Image, ImageDraw, ImageFont

from data import raw
from data.health import images

IDENTITIES = 4  # rows of each split, without distractors and junk
COLUMNS = 8  # images of an identity
CELL, HEIGHT = 76, 128  # maximal width and height of an image, in pixels
HEADING, CAPTION, GAP = 26, 30, 6
WIDTH = GAP + COLUMNS * (CELL + GAP)
ROW = HEIGHT + CAPTION + GAP
GREY = (110, 110, 110)
SPECIAL = {raw.DISTRACTOR_PID: 'distractor', raw.JUNK_PID: 'junk'}

SampleRow = list[tuple[str, raw.RawImage]]  # captions and images


def draw(dataset: raw.RawDataset, seed: int) -> Image.Image:
  """Draws a row of images for each of a few identities of each split.

  Args:
    dataset: data set with at least one image.
    seed: seed of the choice. Query and gallery show the same people.
  """
  counts = dataset.counts()
  rows = {
    split: _choose(dataset, split, random.Random(seed))
    for split in raw.SPLITS
    if dataset.splits[split]
  }
  height = sum(HEADING + ROW * len(chosen) for chosen in rows.values())
  sheet = Image.new('RGB', (WIDTH, height), 'white')
  pen, y = ImageDraw.Draw(sheet), 0
  for split, chosen in rows.items():
    text = f'{split}: {counts[split].images:,} images'
    pen.text((GAP, y + 6), text, 'black', ImageFont.load_default(14))
    y += HEADING
    for row in chosen:
      for column, (caption, image) in enumerate(row):
        x = GAP + column * (CELL + GAP)
        sheet.paste(_thumbnail(image), (x, y))
        under = (x, y + HEIGHT + 1)
        pen.text(under, caption, GREY, ImageFont.load_default(11), spacing=1)
      y += ROW
  return sheet


def _choose(
  dataset: raw.RawDataset, split: str, rng: random.Random
) -> list[SampleRow]:
  """Chooses random identities of a split, and random images of each."""
  images_of = collections.defaultdict(list)
  for image in dataset.splits[split]:
    images_of[image.pid].append(image)
  if split == 'train':
    people, others = sorted(images_of), []
  else:
    people = sorted({i.pid for i in dataset.splits['query']} - {*SPECIAL})
    others = [pid for pid in SPECIAL if pid in images_of]
  chosen = rng.sample(people, min(IDENTITIES, len(people)))
  rows = []
  for pid in (pid for pid in (*chosen, *others) if images_of[pid]):
    own = images_of[pid]
    some = rng.sample(own, min(COLUMNS, len(own)))
    some.sort(key=lambda image: (image.camid, image.name))
    who = str(pid) if split == 'train' else SPECIAL.get(pid, str(pid))
    text = f'{split} {who}' if who == str(pid) else who
    if dataset.has_cameras:
      text += '\ncamera {}'
    first = dataset.first_camera
    rows.append([(text.format(i.camid + first), i) for i in some])
  return rows


def _thumbnail(image: raw.RawImage) -> Image.Image:
  """Returns an image resized to `CELL` x `HEIGHT` at most, or a cross.

  The cross stands for an image that cannot be read.
  """
  opened = images.load(images.source_of(image))
  if opened is None:
    cross = Image.new('RGB', (CELL, HEIGHT), 'lightgrey')
    pen = ImageDraw.Draw(cross)
    pen.line((0, 0, CELL, HEIGHT), GREY)
    pen.line((CELL, 0, 0, HEIGHT), GREY)
    return cross
  scale = min(CELL / opened.width, HEIGHT / opened.height)
  size = [max(1, round(length * scale)) for length in opened.size]
  return opened.resize(size)
