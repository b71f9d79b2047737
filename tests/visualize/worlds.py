"""An evaluation of made-up embeddings, with a file name that is hostile."""

import dataclasses

import numpy as np

from apnet_jax.feed import Benchmark
from apnet_jax.retrieval import card, diagnosis, evaluation, verification
from configs import common
from tests.fakes import make_split

HOSTILE = '<img src=x onerror=alert(1)>&</script>.jpg'
QUERIES = 12


def make_benchmark():
  people = np.arange(1, QUERIES + 1)
  query = make_split(people, people % 2, size=(32, 16))
  names = [f'query/{i}.jpg' for i in range(QUERIES)]
  query = dataclasses.replace(query, paths=np.array(names))
  # Others, the same camera, distractors, and junk.
  pids = np.concatenate([people, people, people, [0, 0, -1, -1]])
  camids = np.concatenate(
    [people % 2 + 2, people % 2 + 3, people % 2, [0, 1, 0, 1]]
  )
  gallery = make_split(abs(pids), camids, size=(32, 16))
  names = [f'gallery/{i}.jpg' for i in range(len(pids))]
  names[0] = HOSTILE
  gallery = dataclasses.replace(gallery, pids=pids, paths=np.array(names))
  return Benchmark(query, gallery, 'noise', '', as_published=False)


def embedding(noise):
  """Returns an `embed` whose images of a person are near each other."""

  def embed(variables, split, rows):
    centers = np.random.default_rng(0).normal(size=(40, 8))
    rngs = [
      np.random.default_rng([int(split.camids[r]) + 5, int(split.pids[r]) + 1])
      for r in rows
    ]
    values = np.stack([rng.normal(size=8) for rng in rngs])
    return (centers[split.pids[rows]] + noise * values).astype(np.float32)

  return embed


def evaluate(noise=1.0, **rules):
  """Returns a result card, the evaluation with its junk, and its benchmark."""
  config = common.get_config()
  config.eval.update(rules)
  benchmark, embed = make_benchmark(), embedding(noise)
  evaluated = evaluation.evaluate(embed, {}, benchmark, config.eval)
  junk = evaluation.embed_junk(embed, {}, benchmark)
  evaluated = dataclasses.replace(evaluated, **junk)
  checkpoint = {
    'step': 3, 'which': 'last', 'started_from': None,
    'trained_on': {'dataset': 'noise', 'fingerprint': ''},
  }  # fmt: skip
  counted = None
  if config.eval.distance == 'cosine':
    counted = verification.count_pairs(evaluated.scores, evaluated.labels)
  made = card.result_card(
    evaluated.result, config, benchmark, checkpoint, None,
    counted and verification.summarize(counted),
    diagnosis.diagnose(evaluated, benchmark),
  )  # fmt: skip
  return made, evaluated, benchmark
