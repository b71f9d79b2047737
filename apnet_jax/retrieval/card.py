"""Result cards: figures of a network with the rules behind them, as JSON."""

from collections.abc import Iterable, Mapping
import contextlib
import dataclasses
import hashlib
from importlib import metadata
import os
import pathlib

import ml_collections
import numpy as np

from apnet_jax.config import plain
from apnet_jax.feed import JUNK_PID, Benchmark, Split
from apnet_jax.paper import differences
from apnet_jax.retrieval import multi_query
from apnet_jax.retrieval.metrics import RetrievalResult
from apnet_jax.retrieval.rerank import describe
from apnet_jax.version import __version__

PACKAGES = (  # whose versions stand on a card
  'jax', 'jaxlib', 'flax', 'orbax-checkpoint', 'numpy', 'scipy', 'pillow',
  'tensorflow', 'tensorflow-cpu',
)  # fmt: skip
MARKET_DISTRACTOR = 0  # identity of all distractors of Market-1501
DIGITS = 8  # of a fingerprint in the name of a file
WHOLE_GALLERY = 'whole gallery'  # of the CMC curve and Rank-k
NO_CAMERAS = 'no cameras: each query against all other images, itself removed'


@dataclasses.dataclass(frozen=True)
class Shorter:
  """Figures of a ranking by shorter embeddings.

  Attributes:
    result: the figures.
    length: bytes of an embedding.
    fitted_on: number of other images that the shortening was fitted on; 0 if
      it needs none.
  """

  result: RetrievalResult
  length: int
  fitted_on: int


def all_figures(result: RetrievalResult, ap: str) -> dict:
  """Returns all figures of a ranking, for a result card.

  Args:
    result: the result.
    ap: form of the average precision behind `mAP`, 'step' or 'trapezoid'.

  Returns:
    By name: mAP, mINP and Rank-k; `mAP_step` and `mAP_trapezoid`, mAP in both
    forms; and `cmc`, the CMC curve.
  """
  return {
    **result.figures(ap),
    'mAP_step': result.mAP,
    'mAP_trapezoid': result.mAP_trapezoid,
    'cmc': _rounded(result.cmc),
  }


def result_card(
  result: RetrievalResult,
  config: ml_collections.ConfigDict,
  benchmark: Benchmark,
  checkpoint: Mapping,
  reranked: RetrievalResult | None = None,
  verification: Mapping | None = None,
  diagnosis: Mapping | None = None,
  reranked_warning: str = '',
  shorter: Mapping[str, Shorter] | None = None,
) -> dict:
  """Makes a result card, ready for JSON; docs/evaluation.md lists its fields.

  Args:
    result: figures of the evaluation.
    config: the whole configuration, with `data` and `eval` as evaluated.
    benchmark: the benchmark that was evaluated.
    checkpoint: the result of `checkpoint_entry`.
    reranked: figures after re-ranking, if any.
    verification: the result of `PairVerifier.verify`, if any.
    diagnosis: the result of `diagnosis.diagnose`, if any.
    reranked_warning: the result of `evaluation.small_gallery_warning`.
    shorter: figures with shorter embeddings by way of shortening, if any.
  """
  rules, ap = config.eval, config.eval.ap
  warnings = [result.warning, dropped_warning(rules, benchmark)]
  return {
    'dataset': config.data.name,
    'fingerprint': benchmark.fingerprint,
    # Of data sets with several versions; cards of earlier states lack it.
    **({'release': benchmark.release} if benchmark.release else {}),
    'as_published': benchmark.as_published,
    'checkpoint': dict(checkpoint),
    'figures': all_figures(result, ap),
    'based_on': result.based_on,
    'warning': ' '.join(filter(None, warnings)) or None,
    'reranked': reranked
    and {
      'variant': describe(
        rules.rerank_k1, rules.rerank_k2, rules.rerank_lambda
      ),
      'figures': all_figures(reranked, ap),
      'warning': reranked_warning or None,
    },
    'shorter': {
      way: {
        'bytes': short.length,
        'fitted_on': short.fitted_on,
        'figures': all_figures(short.result, ap),
      }
      for way, short in (shorter or {}).items()
    }
    or None,
    'protocol': protocol(config, benchmark),
    'network': {
      'profile': config.profile,
      'seed': config.seed,
      'image_size': list(config.data.image_size),
      **{name: plain(value) for name, value in config.model.items()},
    },
    'recipe': {
      name: plain(value)
      for name, value in differences.training_fields(config).items()
    },
    'queries': {
      'valid': result.num_valid_queries,
      'skipped': result.num_skipped_queries,
      'names': digest(benchmark.query),
      'people': person_numbers(benchmark.query.pids),
      'figures': _figures_by_query(result, ap),
      **({'reranked': _figures_by_query(reranked, ap)} if reranked else {}),
    },
    'gallery': gallery_counts(benchmark),
    'verification': verification,
    'diagnosis': diagnosis,
    'versions': versions(),
  }


def protocol(
  config: ml_collections.ConfigDict, benchmark: Benchmark
) -> dict[str, str | bool | int]:
  """Returns the rules of an evaluation, as an entry of a result card.

  Figures are comparable only if all these rules are equal.
  """
  rules = config.eval
  return {
    'rules': 'market1501' if benchmark.has_cameras else NO_CAMERAS,
    'ap': rules.ap,
    'cmc': 'single gallery shot, expected'
    if rules.single_gallery_shot
    else WHOLE_GALLERY,
    'distractors': 'dropped' if rules.drop_distractors else 'kept',
    'distance': rules.distance,
    'ties': 'by gallery index',
    'feature': rules.feature,
    'flip': rules.flip,
    'max_rank': rules.max_rank,
    # Cards of earlier versions lack this entry, and stay comparable.
    **({'query': multi_query.RULE} if rules.multi_query else {}),
  }


def gallery_counts(benchmark: Benchmark) -> dict[str, int]:
  """Counts gallery images of query identities, distractors and junk."""
  pids = benchmark.gallery.pids
  known, junk = np.isin(pids, benchmark.query.pids), pids == JUNK_PID
  return {
    'of_query_identities': int((known & ~junk).sum()),
    'distractors': int((~known & ~junk).sum()),
    'junk_left_out': int(junk.sum()),
  }


def dropped_warning(
  rules: ml_collections.ConfigDict, benchmark: Benchmark
) -> str:
  """Returns a warning if distractors were dropped that were to stay, or ''.

  The released code dropped the distractors of Market-1501, all of which have
  one identity. Other data sets have distractors with identities of their own,
  which it kept.

  Args:
    rules: `config.eval`.
    benchmark: the benchmark that is evaluated.
  """
  if not rules.drop_distractors:
    return ''
  kept = [*benchmark.query.pids, MARKET_DISTRACTOR, JUNK_PID]
  pids = benchmark.gallery.pids
  dropped = pids[~np.isin(pids, kept)]
  if not len(dropped):
    return ''
  return (
    f'Warning: config.eval.drop_distractors removes {len(dropped):,} images of'
    f' {len(np.unique(dropped)):,} identities without a query from the gallery.'
    ' The released code removed only identity 0, on Market-1501: these figures'
    ' cannot be compared with published ones.'
  )


def digest(split: Split) -> str:
  """Returns a hash of the names of a split's images and of their order.

  For multi-query these are the images that are averaged.
  """
  images = split.averaged.images if split.averaged else split
  lines = '\n'.join(map(str, images.paths))
  return hashlib.sha256(lines.encode()).hexdigest()[:16]


def person_numbers(pids: np.ndarray) -> list[int]:
  """Numbers the identities of images from 0, in the order they come in."""
  numbers: dict[int, int] = {}
  return [numbers.setdefault(pid, len(numbers)) for pid in pids.tolist()]


def checkpoint_entry(
  step: int, which: str, config: ml_collections.ConfigDict, run: Mapping
) -> dict:
  """Returns the entry of a result card about the checkpoint of a network.

  Args:
    step: step of the checkpoint.
    which: how the checkpoint was chosen, 'last' or 'best'.
    config: the whole configuration of the training run.
    run: the content of run.json.
  """
  return {
    'step': step,
    'which': which,
    'trained_on': trained_on(config, run['fingerprint']),
    'started_from': run.get('started_from'),
  }


def trained_on(config: ml_collections.ConfigDict, fingerprint: str) -> dict:
  """Returns the entry of a result card about the training images."""
  return {'dataset': config.data.name, 'fingerprint': fingerprint}


def versions() -> dict[str, str]:
  """Returns the versions of this project and of the installed `PACKAGES`."""
  found = {'apnet_jax': __version__}
  for name in PACKAGES:
    with contextlib.suppress(metadata.PackageNotFoundError):
      found[name] = metadata.version(name)
  return found


def _figures_by_query(result: RetrievalResult, ap: str) -> dict[str, list]:
  """Returns each query's figures by name, for a result card."""
  return {name: _rounded(v) for name, v in result.query_figures(ap).items()}


def _rounded(values: np.ndarray) -> list[float | None]:
  """Rounds to six digits; NaN becomes None, since JSON has no NaN."""
  return [None if np.isnan(v) else round(float(v), 6) for v in values]


def name_of_images(name: str, card: Mapping, trained: bool) -> str:
  """Returns the name of a data set for the name of a card's file.

  Other folders, splits, labels or cameras are other images. The first digits of
  their fingerprint follow the name, unless they are the test images of the
  training, or those of another data set as published.

  Args:
    name: name of the data set.
    card: its result card.
    trained: whether the network was trained on this data set.
  """
  own = card['checkpoint']['trained_on']['fingerprint'].split('+')
  usual = card['fingerprint'] in own
  if not trained:
    has_cameras = card['protocol']['rules'] != NO_CAMERAS
    usual |= bool(card['as_published']) and has_cameras
  return name if usual else f'{name}-{card["fingerprint"][:DIGITS]}'


def default_path(
  workdir: str | os.PathLike,
  step: int,
  names: Iterable[str],
  changed_rules: Mapping,
  reranked: bool,
  fit: str | os.PathLike = '',
  dimensions: int | None = None,
) -> pathlib.Path:
  """Returns the default path of a card, whose name tells the settings.

  Args:
    workdir: workdir of the network.
    step: step of the checkpoint.
    names: names of the data sets; see `name_of_images`.
    changed_rules: values of `config.eval` that differ from those of the run, by
      field, as 'eval.ap'.
    reranked: whether the card has figures after re-ranking.
    fit: file that shorter embeddings were fitted on; '' for none.
    dimensions: number of principal components of shorter embeddings, if any.
  """
  changed = [
    f'{field.removeprefix("eval.")}={value}'
    for field, value in sorted(changed_rules.items())
  ]
  parts = [*names, f'step{step}', *changed, *['reranked'] * reranked]
  if fit:
    parts += [f'fit={pathlib.Path(fit).stem}', f'dimensions={dimensions}']
  name = '-'.join(parts).replace('/', '-')
  return pathlib.Path(workdir, 'evaluations', f'{name}.json')


def format_table(results: Mapping[str, RetrievalResult], ap: str) -> str:
  """Formats the figures of results as a table in percent.

  If a result leaves queries out, each row says how many queries it counts. A
  warning follows if the figures are those of few queries.

  Args:
    results: results by the headings of their rows.
    ap: form of the average precision behind `mAP`, 'step' or 'trapezoid'.
  """
  rows = {name: result.figures(ap) for name, result in results.items()}
  columns = list(next(iter(rows.values())))
  width = max(map(len, rows))
  lines = [' ' * width + ''.join(f'{name:>9}' for name in columns)]
  lines.append('-' * len(lines[0]))
  for name, row in rows.items():
    values = ''.join(f'{100 * row[column]:9.1f}' for column in columns)
    lines.append(f'{name:{width}}{values}')
  if any(result.num_skipped_queries for result in results.values()):
    for i, result in enumerate(results.values(), 2):
      lines[i] += f'  {result.based_on}'
  warnings = [result.warning for result in results.values()]
  return '\n'.join([*lines, *dict.fromkeys(filter(None, warnings))])


def step_of(card: object) -> int | None:
  """Returns the step of a result card; None for cards of several data sets."""
  checkpoint = card.get('checkpoint') if isinstance(card, Mapping) else None
  return checkpoint.get('step') if isinstance(checkpoint, Mapping) else None
