"""Writes the report of an evaluation: a page, its figures and pictures."""

from collections.abc import Callable, Mapping
import os
import pathlib

from apnet_jax.feed import Benchmark
from apnet_jax.retrieval.diagnosis import by_difficulty
from apnet_jax.retrieval.evaluation import Evaluation
from apnet_jax.visualize import curves, map_page, page, ranks, report_page
from apnet_jax.workdir.json_files import write_json

QUERIES = 8  # number of queries in a picture of rankings
PAGE, MAP = 'index.html', 'map.html'
FILES = (
  PAGE, 'result.json', 'ranking.png', 'hardest.png', 'threshold.png',
  'cameras.png', MAP,
)  # fmt: skip


def address(folder: str | os.PathLike) -> str:
  """Returns the address of a report's page, for a browser."""
  return pathlib.Path(folder, PAGE).absolute().as_uri()


def check_folder(folder: str | os.PathLike) -> None:
  """Checks that a folder can hold a report; see `page.check_folder`."""
  page.check_folder(folder, FILES)


def write_report(
  folder: str | os.PathLike,
  card: Mapping,
  evaluated: Evaluation,
  benchmark: Benchmark,
  attend: Callable | None = None,
  attended: int = 0,
) -> None:
  """Writes an evaluation's page, figures and pictures; prints their names.

  The files are `index.html`, a page with all of it and with the ranked lists;
  `map.html`, a map of the gallery's embeddings; `result.json`, with the
  figures; `ranking.png`, with queries from the worst to the best AP;
  `hardest.png`, with the queries of the lowest AP; and, if the card has figures
  by threshold or by camera, `threshold.png` and `cameras.png`. Files of an
  earlier report that this one lacks are removed.

  Args:
    folder: folder to write to; it is created if needed.
    card: result card: the figures of the evaluation, for `result.json`.
    evaluated: evaluation of the benchmark.
    benchmark: queries and gallery that were evaluated.
    attend: see `report_page.page_data`.
    attended: see there.
  """
  folder = pathlib.Path(folder)
  queries = {
    'ranking': ranks.choose_queries(evaluated, QUERIES),
    'hardest': by_difficulty(evaluated)[:QUERIES].tolist(),
  }
  pictures = {
    f'{title}.png': ranks.draw_ranking(evaluated, benchmark, rows)
    for title, rows in queries.items()
  }
  if card['verification']:
    pictures['threshold.png'] = curves.draw_verification(card['verification'])
  if card['diagnosis']['by_cameras']:
    cameras = card['diagnosis']['by_cameras']
    pictures['cameras.png'] = curves.draw_cameras(cameras)
  data = report_page.page_data(
    card, evaluated, benchmark, attend=attend, attended=attended
  )
  shown = report_page.make_page(data, f'Evaluation on {card["dataset"]}')
  places = map_page.page_data(evaluated, benchmark)
  shown_map = map_page.make_page(
    places, f'Map of {card["dataset"]}', 'images of the gallery'
  )
  write_json(folder / 'result.json', card)
  for file, picture in pictures.items():
    picture.save(folder / file)
  page.write_page(folder / MAP, shown_map)
  page.write_page(folder / PAGE, shown)
  written = ['result.json', *pictures, MAP, PAGE]
  for file in {*FILES} - {*written}:
    (folder / file).unlink(missing_ok=True)
  print(f'wrote to {folder}: {", ".join(written)}')
