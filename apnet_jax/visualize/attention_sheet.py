"""Draws an image beside its Grad-CAM and its learned attention (Fig. 6)."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from apnet_jax.printing import counted
from apnet_jax.visualize.attention_maps import Explained, Level, Measured
from apnet_jax.visualize.faithfulness import enlarge
from apnet_jax.visualize.heat_colours import colour, overlay

# All sizes are in pixels.
HEIGHT = 256  # height of a drawn image
WIDTH, GAP = 150, 10  # least width of a column; the space between columns
TITLE, CAPTION, LINE = 24, 48, 15  # heights of texts
STRIP, BARS = 14, 52  # heights of the channels' weights and of the bars
BLUE, GREY = '#2c7bb6', '#555555'


def draw_sheet(rows: Sequence[tuple[str, Explained]]) -> Image.Image:
  """Draws images and their maps, one line for each image and site.

  The image is on the left. Grad-CAM after each level follows, then the learned
  attention of each level, in its own range of colours, with the boundaries of
  the parts and the mean attention of each part as bars.

  Args:
    rows: title and explanation of each image.
  """
  lines = [
    _line(title, explained, site)
    for title, explained in rows
    for site in dict.fromkeys(level.site for level in explained.levels)
  ]
  size = (max(x.width for x in lines), sum(x.height for x in lines))
  sheet = Image.new('RGB', size, 'white')
  y = 0
  for line in lines:
    sheet.paste(line, (0, y))
    y += line.height
  return sheet


def _line(title: str, explained: Explained, site: int) -> Image.Image:
  """Draws an image beside its maps at one site."""
  levels = [level for level in explained.levels if level.site == site]
  image = _resize(explained.image)
  cells = [_cell('', image, [])]
  cells += [
    _cell(
      f'Grad-CAM, level {level.level}',
      overlay(np.asarray(image), _shown(level.heat, image, 0)),
      _figures(level.heat),
    )
    for level in levels
  ]
  cells += [
    _attention_cell(level, level.attention, level.parts, image)
    for level in levels
    if level.attention and level.parts is not None  # neither at level 0
  ]
  title = f'{title}, site {site}'
  width = max(
    sum(cell.width + GAP for cell in cells) + GAP,
    round(_font().getlength(title)) + 2 * GAP,
  )
  height = TITLE + max(cell.height for cell in cells) + GAP
  line = Image.new('RGB', (width, height), 'white')
  ImageDraw.Draw(line).text((GAP, 4), title, 'black', _font())
  x = GAP
  for cell in cells:
    line.paste(cell, (x, TITLE))
    x += cell.width + GAP
  return line


def _attention_cell(
  level: Level, attention: Measured, parts: np.ndarray, image: Image.Image
) -> Image.Image:
  """Draws the learned attention of a level, with the weights of its parts."""
  values = attention.values
  low, high = values.min(), values.max()
  picture = overlay(np.asarray(image), _shown(attention, image, low))
  if level.weights is None:  # the parts are rows
    draw = ImageDraw.Draw(picture)
    for part in range(1, len(parts)):
      y = part * picture.height // len(parts)
      draw.line([(0, y), (picture.width, y)], 'white', 2)
  texts = [f'{low:.3f} to {high:.3f}', *_figures(attention)]
  cell = _cell(f'attention, level {level.level}', picture, texts)
  below = _parts(parts, level.weights, cell.width)
  whole = Image.new('RGB', (cell.width, cell.height + below.height), 'white')
  whole.paste(cell, (0, 0))
  whole.paste(below, (0, cell.height))
  return whole


def _parts(
  parts: np.ndarray, weights: np.ndarray | None, width: int
) -> Image.Image:
  """Draws the weights of the channels, if any, and the bars of the parts."""
  picture = Image.new('RGB', (width, STRIP + LINE + BARS + LINE), 'white')
  draw = ImageDraw.Draw(picture)
  edges = np.linspace(0, width, len(parts) + 1).round().astype(int).tolist()
  if weights is not None:
    # Means of weights, if there are more than pixels; not of their colours,
    # which would stand for weights that no channel has.
    strip = Image.fromarray(weights.astype(np.float32)[None])
    means = np.asarray(strip.resize((width, 1), Image.Resampling.BOX))
    low, high = means.min(), means.max()
    colours = colour((means - low) / max(high - low, 1e-12))
    picture.paste(Image.fromarray(colours.repeat(STRIP, 0)))
    draw.text((0, STRIP), f'{low:.3f} to {high:.3f}', GREY, _font(11))
    # Lines between narrow parts would hide the weights.
    for edge in edges[1:-1] if width >= 6 * len(parts) else ():
      draw.line([(edge, 0), (edge, STRIP)], 'black', 2)
  base = STRIP + LINE + BARS
  for start, stop, weight in zip(edges, edges[1:], parts.tolist()):
    top = base - round((BARS - LINE) * min(weight, 1))
    # Bars of narrow parts are at least one pixel wide, and may touch.
    left = min(start + 1, stop - 1)
    draw.rectangle([left, top, max(left, stop - 2), base], BLUE)
    if stop - start >= 30:
      draw.text((start + 2, top - LINE + 1), f'{weight:.2f}', GREY, _font(11))
  draw.line([(0, base), (width, base)], GREY)
  what = 'rows, top to bottom' if weights is None else 'channels'
  count = counted(len(parts), 'part')
  draw.text((0, base + 1), f'{count} of {what}', GREY, _font(11))
  return picture


def _cell(
  title: str, picture: Image.Image, texts: Iterable[str]
) -> Image.Image:
  """Draws a picture with a title above and lines of text below."""
  width = max(picture.width, WIDTH)
  height = TITLE + picture.height + CAPTION
  cell = Image.new('RGB', (width, height), 'white')
  draw = ImageDraw.Draw(cell)
  draw.text((0, 3), title, 'black', _font(12))
  cell.paste(picture, (0, TITLE))
  for i, text in enumerate(texts):
    y = TITLE + picture.height + 1 + i * LINE
    draw.text((0, y), text, GREY, _font(11))
  return cell


def _figures(measured: Measured) -> Iterator[str]:
  """Yields the figures of a map as lines of text."""
  if measured.area is None:
    yield 'no position raises the target'
    return
  entropy = '-' if measured.entropy is None else f'{measured.entropy:.2f}'
  yield f'entropy {entropy}, area {100 * measured.area:.0f}%'
  if measured.attended_fall is not None:
    random = f'random {measured.random_fall:.2f}'
    yield f'ROAD {measured.attended_fall:.2f} ({random})'


def _shown(measured: Measured, image: Image.Image, low: float) -> np.ndarray:
  """Returns a map in the size of a picture, from 0 at `low` to 1."""
  values = enlarge(measured.values, (image.height, image.width)) - low
  return values.clip(0) / max(measured.values.max() - low, 1e-12)


def _resize(image: np.ndarray) -> Image.Image:
  height, width, _ = image.shape
  size = (round(width * HEIGHT / height), HEIGHT)
  return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)


def _font(size: int = 14) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
  return ImageFont.load_default(size)
