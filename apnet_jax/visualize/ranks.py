"""Pictures of rankings: each query beside its closest gallery images."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from apnet_jax.feed import Benchmark, Split
from apnet_jax.retrieval.diagnosis import by_difficulty
from apnet_jax.retrieval.evaluation import Evaluation, rank
from apnet_jax.retrieval.metrics import RetrievalResult
from apnet_jax.visualize import thumbnails

GREEN, RED, BLUE, GREY = '#1a9641', '#d7191c', '#2c7bb6', '#555555'
# All sizes are in pixels.
BORDER, GAP = 6, 6  # the frame of an image; the space between images
CAPTION, HEADING = 30, 24  # heights of the text
HEIGHT = 128  # height of a drawn image


def choose_queries(evaluation: Evaluation, number: int) -> list[int]:
  """Chooses queries evenly from the worst to the best average precision (AP).

  Queries without a true match, which have no AP, are not chosen.

  Args:
    evaluation: evaluation of a benchmark.
    number: number of queries to choose; all valid queries if they are fewer.

  Returns:
    Indices into the query split, the worst AP first.
  """
  order = by_difficulty(evaluation)
  return order[thumbnails.evenly(len(order), number)].tolist()


def draw_ranking(
  evaluation: Evaluation,
  benchmark: Benchmark,
  queries: Sequence[int],
  top: int = 10,
) -> Image.Image:
  """Draws the rankings of some queries, one line of images for each query.

  The query is on the left, in a blue frame. The gallery images follow, closest
  first, in a green frame if they show the same person and in a double red frame
  if not. A caption states the identity and, if known, the camera. The caption
  of a query also states its average precision in percent. The caption of a
  gallery image also states the cosine similarity, if the ranking uses this
  distance.

  Args:
    evaluation: evaluation of the benchmark.
    benchmark: queries and gallery that were evaluated.
    queries: indices into the query split.
    top: number of gallery images for each query.
  """
  rankings = rank(evaluation, queries, top)
  precision = evaluation.query_figures['mAP']
  is_cosine = evaluation.rules.distance == 'cosine'
  shown_queries = _images(benchmark.query, [r.query for r in rankings])
  shown_found = _images(
    benchmark.gallery, np.concatenate([r.found for r in rankings])
  )
  cells = [
    [
      _cell(
        next(shown_queries),
        BLUE,
        _label(benchmark, benchmark.query, r.query)
        + f'\nAP {100 * precision[r.query]:.0f}',
      ),
      *(
        _cell(
          next(shown_found),
          GREEN if correct else RED,
          _label(benchmark, benchmark.gallery, row)
          + (f'\n{similarity:.2f}' if is_cosine else ''),
        )
        for row, correct, similarity in zip(r.found, r.correct, r.similarity)
      ),
    ]
    for r in rankings
  ]
  return _grid(cells, top, evaluation.result)


def _label(benchmark: Benchmark, split: Split, row: int) -> str:
  """Returns the identity and the camera of image `row`, for its caption."""
  if not benchmark.has_cameras:
    return f'{split.pids[row]}'
  return f'{split.pids[row]} c{split.camids[row] + benchmark.first_camera}'


def _images(split, rows):
  """Yields the images of a split at the indices `rows`, in this order."""
  for batch in split.batches(np.asarray(rows), 64):
    yield from batch


def _cell(image: np.ndarray, colour: str, label: str) -> Image.Image:
  """Draws an image in a coloured frame, with the caption `label` below.

  A red frame is double, for those who cannot tell it from a green one.
  """
  height, width, _ = image.shape
  width = round(width * HEIGHT / height)
  picture = Image.fromarray(image).resize((width, HEIGHT))
  size = (width + 2 * BORDER, HEIGHT + 2 * BORDER + CAPTION)
  cell = Image.new('RGB', size, 'white')
  cell.paste(colour, (0, 0, size[0], HEIGHT + 2 * BORDER))
  cell.paste(picture, (BORDER, BORDER))
  if colour == RED:
    third = BORDER // 3
    inner = (third, third, size[0] - third - 1, HEIGHT + 2 * BORDER - third - 1)
    ImageDraw.Draw(cell).rectangle(inner, outline='white', width=third)
  ImageDraw.Draw(cell).text(
    (BORDER, HEIGHT + 2 * BORDER + 1), label, GREY, ImageFont.load_default(11)
  )
  return cell


def _heading(result: RetrievalResult) -> str:
  """Returns the text above the found images."""
  heading = 'Found, closest first'
  if result.num_skipped_queries or result.warning:
    heading += f' ({result.based_on} have a true match)'
  return heading


def _grid(
  cells: list[list[Image.Image]], top: int, result: RetrievalResult
) -> Image.Image:
  """Arranges framed images in lines: a query, then its gallery images.

  Args:
    cells: framed images of each line, all of the same size; the query is first.
    top: number of gallery images that a line has room for.
    result: the result of the evaluation, whose number of queries stands in the
      heading if some were left out or if they are few.
  """
  width, height = cells[0][0].size
  step, first = width + GAP, width + 3 * GAP  # the query stands apart
  sheet = Image.new(
    'RGB',
    (first + top * step + GAP, HEADING + len(cells) * (height + GAP)),
    'white',
  )
  draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
  draw.text((GAP, 3), 'Query', 'black', font)
  draw.text((first + GAP, 3), _heading(result), 'black', font)
  for i, row in enumerate(cells):
    y = HEADING + i * (height + GAP)
    for j, cell in enumerate(row):
      sheet.paste(cell, (GAP if j == 0 else first + GAP + (j - 1) * step, y))
  return sheet
