"""Writes the report of an evaluation: its figures as JSON and its pictures."""

from collections.abc import Mapping
import os
import pathlib

from apnet_jax.feed import Benchmark
from apnet_jax.retrieval.diagnosis import by_difficulty
from apnet_jax.retrieval.evaluation import Evaluation
from apnet_jax.visualize import curves, ranks
from apnet_jax.workdir.json_files import write_json

QUERIES = 8  # number of queries in a picture of rankings


def write_report(
  folder: str | os.PathLike,
  card: Mapping,
  evaluated: Evaluation,
  benchmark: Benchmark,
) -> None:
  """Writes an evaluation's figures and pictures, and prints the file names.

  The files are `result.json`, with the figures; `ranking.png`, with queries
  from the worst to the best AP; `hardest.png`, with the queries of the lowest
  AP; and, if the card has figures by threshold or by camera, `threshold.png`
  and `cameras.png`.

  Args:
    folder: folder to write to; it is created if needed.
    card: result card: the figures of the evaluation, for `result.json`.
    evaluated: evaluation of the benchmark.
    benchmark: queries and gallery that were evaluated.
  """
  folder = pathlib.Path(folder)
  write_json(folder / 'result.json', card)
  queries = {
    'ranking': ranks.choose_queries(evaluated, QUERIES),
    'hardest': by_difficulty(evaluated)[:QUERIES],
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
  for file, picture in pictures.items():
    picture.save(folder / file)
  print(f'wrote to {folder}: {", ".join(["result.json", *pictures])}')
