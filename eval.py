"""Evaluates a trained network on its own data set or on others.

  python eval.py --ckpt=runs/market
  python eval.py --ckpt=runs/market --dataset=duke --data_dir=DIR
  python eval.py --ckpt=runs/market --dataset=duke,msmt17 --data_dir=DIR
  python eval.py --ckpt=runs/market --config.eval.ap=trapezoid

Everything else comes from the workdir that train.py wrote; --config.eval.FIELD
ranks by other rules than it says there (configs/common.py lists them). The
people of another data set need not be those that the network was trained on.
"""

import os
import pathlib

from absl import flags
import ml_collections
from ml_collections import config_flags

from apnet_jax import cli
from configs import common

CONFIG = config_flags.DEFINE_config_dict(
  'config',
  ml_collections.ConfigDict({'eval': common.get_config().eval}),
  'As --config.eval.drop_distractors: a rule of evaluation to change.',
)
CKPT = flags.DEFINE_string('ckpt', None, 'Workdir of train.py.', required=True)
WHICH = cli.define_which()
DATASET = flags.DEFINE_list(
  'dataset',
  [],
  'Data sets to evaluate on, as market, duke, cuhk03/labeled, msmt17,'
  ' occluded_duke, folder; default: the one trained on.',
)
DATA_DIR = flags.DEFINE_multi_string(
  'data_dir',
  [],
  'Folder of the raw images, of one data set or of all; or the flag once for'
  ' each data set, in their order. Default: as in training.',
)
ALLOW_OTHER_COUNTS = flags.DEFINE_bool(
  'allow_other_counts',
  None,
  'Evaluates also on images whose number is not the published one; default: as'
  ' in training for the data set trained on, no for others.',
)
TEST_FRACTION = flags.DEFINE_float(
  'test_fraction',
  None,
  'Share of the identities to test on, of own images without splits; default:'
  ' as in training, or all of them if the training was on a benchmark.',
)
RERANK = flags.DEFINE_bool(
  'rerank',
  False,
  'Also re-ranks by k-reciprocal encoding, in its original form; the paper does'
  ' not.',
)
CHOOSE_THRESHOLD = flags.DEFINE_float(
  'choose_threshold',
  None,
  'Share of pairs of different persons, as 1e-3, that may pass as one person.'
  ' The cosine similarity for it is chosen on the data set and stored with the'
  ' network, for the commands search and compare.',
  lower_bound=0,
  upper_bound=1,
)
JSON = flags.DEFINE_string(
  'json',
  '',
  'File for the result card; of several data sets, for their cards by name.'
  ' Default: in the workdir, below evaluations/.',
)
REPORT = flags.DEFINE_string(
  'report',
  '',
  'Writes the card, pictures of rankings, the error rates of thresholds and mAP'
  ' between cameras to this folder; of several data sets, to a folder for each'
  ' in it.',
)
PROCESSES = cli.define_processes()


# What to say here instead of the fields that messages name.
FLAGS_OF_FIELDS = {
  'config.data.dir': '--data_dir',
  'config.data.name': '--dataset',
  'config.data.test_fraction': '--test_fraction',
}


def main(argv):
  cli.no_more_arguments(argv)

  cli.quieten()
  cli.start_processes(*PROCESSES)
  from apnet_jax import checkpoint, parallel
  from apnet_jax.retrieval import card, evaluation

  with checkpoint.open_for_reading(CKPT.value) as checkpoints:
    check_flags()
    config = load_config()
    evaluation.check_rules(config.eval)
    check_threshold(config.eval)
    wanted = targets(config)
    cli.cache_compilation(config.compilation_cache_dir)
    run = checkpoint.load_run(CKPT.value)
    step, embed, variables = evaluation.restore_embed(
      checkpoints, WHICH.value, config, run['num_classes']
    )
  chosen = card.chosen(step, WHICH.value, config, run)
  thresholds = Thresholds(step, config.eval)
  prepared = prepare(wanted)

  from data import pipeline

  cards, figures = {}, {}
  for name, (target, images) in prepared.items():
    benchmark = pipeline.open_benchmark(images, target)
    print(f'{name}\n{benchmark.summary}', flush=True)
    evaluated = evaluation.evaluate(embed, variables, benchmark, target.eval)
    if not parallel.is_first():
      continue  # it has embedded its share
    figures[name] = evaluated.result.figures(target.eval.ap)
    reranked = None
    if RERANK.value:
      reranked = evaluation.rerank(evaluated, benchmark)
      figures[f'{name}, re-ranked'] = reranked.figures(target.eval.ap)
    cards[name] = card.result_card(
      evaluated.result,
      target,
      benchmark,
      chosen,
      reranked,
      thresholds.verify(evaluated, target, benchmark),
      diagnose(evaluated, benchmark),
    )
    if REPORT.value:
      write_report(name, cards[name], evaluated, benchmark)
  if not parallel.is_first():
    return
  print(f'after step {step}')
  print(card.format_table(figures))
  path = card_path(step, cards)
  write_json(path, one_or_all(cards))
  print(f'wrote {path}')
  thresholds.check()


def check_flags() -> None:
  """Before minutes of work."""
  if not JSON.value and not os.access(CKPT.value, os.W_OK):
    raise ValueError(
      f'--ckpt={CKPT.value} cannot be written to: give --json, a file for the'
      ' result card.'
    )
  if CHOOSE_THRESHOLD.value is not None and len(DATASET.value) > 1:
    raise ValueError('--choose_threshold wants one data set to choose it on.')


def check_threshold(rules: ml_collections.ConfigDict) -> None:
  """Likewise, by the rules of the evaluation."""
  if CHOOSE_THRESHOLD.value is not None and rules.distance != 'cosine':
    raise ValueError(
      f'--choose_threshold is of cosines, config.eval.distance='
      f'{rules.distance!r}.'
    )


def card_path(step: int, cards) -> pathlib.Path:
  if JSON.value:
    return pathlib.Path(JSON.value)
  changed = [
    f'{field.removeprefix("eval.")}={value}'
    for field, value in sorted(changed_rules().items())
  ]
  parts = [*cards, f'step{step}', *changed, *['reranked'] * RERANK.value]
  name = '-'.join(parts).replace('/', '-')
  return pathlib.Path(CKPT.value, 'evaluations', f'{name}.json')


def changed_rules() -> dict:
  """Fields of the configuration that flags change, as eval.ap, with values."""
  return config_flags.get_override_values(flags.FLAGS['config'])


def load_config() -> ml_collections.ConfigDict:
  """The run's configuration, with what the flags change in `eval`.

  Fields that are newer than the run have their defaults.
  """
  from apnet_jax import checkpoint

  config = common.get_config()
  saved = checkpoint.load_config(CKPT.value)
  with checkpoint.blaming(CKPT.value, 'config.json'):
    config.update(saved)
  config.update_from_flattened_dict(changed_rules())
  return config


class Thresholds:
  """The part of a card about pairs, and the threshold stored with a network."""

  def __init__(self, step: int, rules: ml_collections.ConfigDict):
    from apnet_jax.retrieval import threshold

    self._step, self._failure = step, None
    if CHOOSE_THRESHOLD.value is not None:
      self._stored = None
      return
    self._stored = threshold.load(CKPT.value)
    problem = self._stored and threshold.problem(self._stored, step, rules)
    if problem:
      print(problem)
      self._stored = None

  def verify(self, evaluated, target, benchmark) -> dict | None:
    """Counts pairs, and chooses a threshold if that is wanted."""
    from apnet_jax.retrieval import threshold, verification

    if target.eval.distance != 'cosine':
      return None
    counted = verification.count_pairs(evaluated.scores, evaluated.labels)
    if CHOOSE_THRESHOLD.value is not None:
      try:
        self._stored = threshold.choose(
          counted,
          CHOOSE_THRESHOLD.value,
          target,
          benchmark.fingerprint,
          self._step,
        )
        threshold.save(CKPT.value, self._stored)
      except ValueError as error:
        self._failure = error
    if counted is None:
      return None
    summary = verification.summarize(counted)
    print('\n'.join(verification.lines(summary)))
    if self._stored is None:
      return summary
    here = counted.at(self._stored['threshold'])
    print(
      f'{threshold.describe(self._stored)}\n  Here: FPR {here["fpr"]:.2g}, TPR'
      f' {100 * here["tpr"]:.1f}%; FPIR {here["fpir"]:.2g}, FNIR'
      f' {100 * here["fnir"]:.1f}%'
    )
    return summary | {
      'stored_threshold': {'chosen': self._stored, 'here': here}
    }

  def check(self) -> None:
    """Raises, after all else is done, if no threshold could be chosen."""
    if self._failure:
      raise self._failure


def diagnose(evaluated, benchmark) -> dict:
  """The part of the card about what is hard."""
  from apnet_jax.retrieval import diagnosis

  found = diagnosis.diagnose(evaluated, benchmark)
  print('\n'.join(diagnosis.lines(found)))
  return found


def targets(
  config: ml_collections.ConfigDict,
) -> dict[str, ml_collections.ConfigDict]:
  """The configuration for each data set to evaluate on, by its name."""
  from data import datasets

  names, directories = DATASET.value, DATA_DIR.value
  if not names:
    names = [config.data.name]
  elif not directories:
    raise ValueError('--dataset needs --data_dir, the folder of its images.')
  if len(directories) not in (0, 1, len(names)):
    raise ValueError(
      f'--data_dir is given {len(directories)} times for {len(names)} data sets'
      f' ({", ".join(names)}): give it once, or once for each.'
    )
  full = [datasets.find(name).name for name in names]
  if len(set(full)) < len(full):
    raise ValueError(f'--dataset={",".join(names)} names a data set twice.')
  if len(directories) == 1:
    directories = directories * len(names)
  found = {}
  for i, name in enumerate(names):
    found[name] = config.copy_and_resolve_references()
    data = found[name].data
    if directories:
      data.dir = directories[i]
    if full[i] != config.data.name:
      data.update(name=full[i], allow_other_counts=False)
      data.test_fraction = 1.0  # nobody there was trained on
    if ALLOW_OTHER_COUNTS.value is not None:
      data.allow_other_counts = ALLOW_OTHER_COUNTS.value
    if TEST_FRACTION.value is not None:
      data.test_fraction = TEST_FRACTION.value
  return found


def prepare(configs):
  """Prepares all data sets, so that mistakes show before the work begins."""
  from apnet_jax import parallel
  from data.prepare import prepare

  try:
    with parallel.first_before_others():
      return {name: (c, prepare(c.data)) for name, c in configs.items()}
  except ValueError as error:
    message = str(error)
    for field, flag in FLAGS_OF_FIELDS.items():
      message = message.replace(f'--{field}', flag).replace(field, flag)
    raise ValueError(message) from error


def one_or_all(by_name: dict):
  return by_name if len(by_name) > 1 else next(iter(by_name.values()))


def write_json(path: pathlib.Path, content) -> None:
  from apnet_jax import checkpoint

  checkpoint.write_json(path.parent, path.name, content)


def write_report(name, card, evaluated, benchmark) -> None:
  from apnet_jax.retrieval.diagnosis import by_difficulty
  from apnet_jax.visualize import curves, ranks

  folder = pathlib.Path(REPORT.value)
  if len(DATASET.value) > 1:
    folder /= name.replace('/', '-')
  write_json(folder / 'result.json', card)
  chosen = {
    'ranking': ranks.choose_queries(evaluated, 8),
    'hardest': by_difficulty(evaluated)[:8],
  }
  pictures = {
    f'{title}.png': ranks.draw_ranking(evaluated, benchmark, rows)
    for title, rows in chosen.items()
  }
  if card['verification']:
    pictures['threshold.png'] = curves.draw_verification(card['verification'])
  if card['diagnosis']['by_cameras']:
    cameras = card['diagnosis']['by_cameras']
    pictures['cameras.png'] = curves.draw_cameras(cameras)
  for file, picture in pictures.items():
    picture.save(folder / file)
  print(f'wrote to {folder}: {", ".join(["result.json", *pictures])}')


if __name__ == '__main__':
  cli.run(main)
