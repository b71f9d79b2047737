"""Evaluates a trained network on its own data set or on others.

  python eval.py --ckpt=runs/market
  python eval.py --ckpt=runs/market --dataset=duke --data_dir=DIR
  python eval.py --ckpt=runs/market --dataset=duke,msmt17 --data_dir=DIR
  python eval.py --ckpt=runs/market --config.eval.ap=trapezoid

The network and all settings come from the workdir that train.py wrote.
--config.eval.FIELD changes a rule of evaluation; apnet_jax/config.py lists all
rules. --dataset evaluates the network on other data sets, whose people it has
never seen.

Exit codes: 2, a mistake of the user, a file that cannot be read or written, or
the memory of a device is full; 4, another process of the command is lost.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
import functools
import os
import pathlib

from absl import flags
import ml_collections
from ml_collections import config_flags

from apnet_jax import cli, hub
from apnet_jax.config import check_section
from apnet_jax.errors import UserError

CONFIG = cli.define_rules()
CKPT = flags.DEFINE_string('ckpt', None, cli.CKPT_HELP, required=True)
WHICH = cli.define_which()
DATASET = flags.DEFINE_list(
  'dataset',
  [],
  'Data sets to evaluate on, separated by commas, as market, duke,'
  ' cuhk03/labeled, msmt17, occluded_duke, folder. Default: the data set of the'
  ' training.',
)
DATA_DIR = flags.DEFINE_multi_string(
  'data_dir',
  [],
  'Folder of the raw images. For several data sets give one folder that has'
  ' them all, or repeat the flag for each data set, in the order of --dataset.'
  ' Default: as in training.',
)
ALLOW_OTHER_COUNTS = flags.DEFINE_bool(
  'allow_other_counts',
  None,
  'Accepts a data set whose counts differ from the published ones. Default: for'
  ' the data set of the training, the setting of the training; for other data'
  ' sets, false.',
)
TEST_FRACTION = flags.DEFINE_float(
  'test_fraction',
  None,
  'Share of the identities to test on, for own images without splits. Default:'
  ' as in training, or 1 if the training was on a benchmark.',
)
PATTERN = flags.DEFINE_string(
  'pattern',
  None,
  'Regular expression that finds identity, camera and split in the paths of own'
  ' images (config.data.pattern). Default: as in training on own images.',
)
FOLDERS_ARE_PEOPLE = flags.DEFINE_bool(
  'folders_are_people',
  None,
  'Accepts a folder for each identity although the folders look like cameras,'
  ' for own images. Default: as in training on own images.',
)
IGNORE_CAMERAS = flags.DEFINE_bool(
  'ignore_cameras',
  None,
  'Compares each query with all images except itself, whatever their cameras.'
  ' Default: for the data set of the training, the setting of the training; for'
  ' other data sets, false.',
)
RERANK = flags.DEFINE_bool(
  'rerank',
  False,
  'Also gives metrics after k-reciprocal re-ranking (Zhong et al., CVPR 2017),'
  ' which the APNet paper does not use. Its parameters are'
  ' --config.eval.rerank_k1, rerank_k2 and rerank_lambda.',
)
FIT = flags.DEFINE_string(
  'fit',
  '',
  'File of embeddings of other images, such as the training images, which the'
  ' command embed wrote with this network. The card then also has the metrics'
  ' of shortened embeddings: principal components fitted on this file, with and'
  ' without whitening; int8; and binary codes.',
)
DIMENSIONS = flags.DEFINE_integer(
  'dimensions',
  256,
  'Number of principal components for --fit.',
  lower_bound=1,
)
CHOOSE_THRESHOLD = flags.DEFINE_float(
  'choose_threshold',
  None,
  'Largest false positive rate, as 1e-3: the share of pairs of different'
  ' persons that may be taken for one person. The lowest threshold of cosine'
  ' similarity with this rate on the data set is stored with the network, for'
  ' the commands search and compare.',
  lower_bound=0,
  upper_bound=1,
)
JSON = flags.DEFINE_string(
  'json',
  '',
  'File for the result card, or for the cards of several data sets by name.'
  ' Default: a file in evaluations/ of the workdir.',
)
REPORT = flags.DEFINE_string(
  'report',
  '',
  'Folder for a report: a page (index.html) with the metrics and the ranked'
  ' lists, the result card, and pictures. It must be new, empty, or that of an'
  ' earlier report. Several data sets get a subfolder each.',
)
ATTENTION = flags.DEFINE_integer(
  'attention',
  0,
  'Number of queries, the hardest first, whose lists also show Grad-CAM. It'
  ' explains the similarity of the query to the first ranked image and to the'
  ' closest true match. Needs --report.',
  lower_bound=0,
  upper_bound=1000,
)
PROCESSES = cli.define_processes()


def main(argv):
  cli.no_more_arguments(argv)
  cli.quieten()
  cli.start_processes(*PROCESSES)

  from apnet_jax.parallel import devices, processes
  from apnet_jax.retrieval import card
  from apnet_jax.retrieval.embed import make_embed
  from apnet_jax.retrieval.evaluator import Evaluator
  from apnet_jax.retrieval.threshold import PairVerifier
  from apnet_jax.workdir import restore, run_files
  from apnet_jax.workdir.checkpoints import open_for_reading
  from data import targets

  ckpt = hub.find_network(CKPT.value)
  with open_for_reading(ckpt) as checkpoints:
    changed_rules = config_flags.get_override_values(flags.FLAGS['config'])
    config = run_files.load_full_config(ckpt)
    config.update_from_flattened_dict(changed_rules)
    check_section('eval', config.eval)
    processes.check_same_config(config)
    check_flags(config, changed_rules, ckpt)
    configs = targets.choose(
      config, DATASET.value, DATA_DIR.value, ALLOW_OTHER_COUNTS.value,
      TEST_FRACTION.value, PATTERN.value, IGNORE_CAMERAS.value,
      FOLDERS_ARE_PEOPLE.value,
    )  # fmt: skip
    if CHOOSE_THRESHOLD.value is not None:
      check_single(configs)
    if REPORT.value:
      check_report(configs)
    devices.keep_compiled_programs(config.compilation_cache_dir)
    run = run_files.load_run(ckpt)
    step, model, variables = restore.restore_model(
      checkpoints, WHICH.value, config, run['num_classes']
    )
    which = checkpoints.chosen(WHICH.value)
  verifier = PairVerifier(ckpt, step, config.eval, CHOOSE_THRESHOLD.value)
  evaluator = Evaluator(
    make_embed(model, config.eval),
    variables,
    card.checkpoint_entry(step, which, config, run),
    verifier,
    RERANK.value,
    embeds_junk=bool(REPORT.value),
    shorten=make_shortening(model, variables, config),
  )
  prepared = targets.prepare_all(configs)

  from data import pipeline

  folders, attend = {}, None
  if REPORT.value:
    from apnet_jax.visualize import report

    folders = report_folders(prepared)
    attend = attention_of(model, variables, config.eval.feature)
  try:
    for name, images in prepared.items():
      benchmark = pipeline.open_benchmark(images, configs[name])
      evaluated = evaluator.evaluate(name, configs[name], benchmark)
      if folders and processes.is_first():
        report.write_report(
          folders[name],
          evaluator.cards[name],
          evaluated,
          benchmark,
          attend,
          ATTENTION.value,
        )
  finally:  # if a report or a further data set fails, these are not lost
    if evaluator.cards:  # only in the first process
      print(f'Checkpoint after step {step}, metrics in percent:')
      print(card.format_table(evaluator.results, config.eval.ap))
      write_cards(evaluator.cards, config, configs, ckpt, step, changed_rules)
  if not processes.is_first():
    return
  for folder in folders.values():
    print(f'The report is {report.address(folder)}')
  verifier.raise_failure()


def write_cards(
  cards: Mapping[str, Mapping],
  config: ml_collections.ConfigDict,
  configs: Mapping[str, ml_collections.ConfigDict],
  ckpt: str | os.PathLike,
  step: int,
  changed: Mapping,
) -> None:
  """Writes the result cards of data sets into a file; prints its name.

  Args:
    cards: the result cards by name of the data set.
    config: the whole configuration of the run.
    configs: configurations with `data` as evaluated, by name of the data set.
    ckpt: path of the trained network.
    step: step of its checkpoint.
    changed: values of fields that the command line changes, as 'eval.ap'.
  """
  from apnet_jax.retrieval import card
  from apnet_jax.workdir import json_files
  from data import datasets

  own = datasets.single_sets(config.data)
  path = JSON.value or card.default_path(
    ckpt,
    step,
    [
      card.name_of_images(name, cards[name], configs[name].data.name in own)
      for name in cards
    ],
    changed,
    RERANK.value,
    FIT.value,
    DIMENSIONS.value,
  )
  json_files.write_json(
    path, cards if len(configs) > 1 else next(iter(cards.values()))
  )
  print(f'wrote {path}')


def check_flags(
  config: ml_collections.ConfigDict,
  changed: Iterable[str],
  ckpt: str | os.PathLike,
) -> None:
  """Raises UserError for flags that would fail only after the evaluation.

  Args:
    config: the whole configuration of the run.
    changed: fields that the command line changes, as 'eval.ap'.
    ckpt: path of the trained network.
  """
  from apnet_jax.workdir.pack import is_pack

  for field in changed:
    if field.startswith('eval.rerank_') and not RERANK.value:
      raise UserError(f'--config.{field} needs --rerank.')
  if FIT.value and config.eval.distance != 'cosine':
    raise UserError(
      '--fit needs cosine similarities, but config.eval.distance='
      f'{config.eval.distance!r}.'
    )
  if DIMENSIONS.present and not FIT.value:
    raise UserError('--dimensions needs --fit, a file of embeddings.')
  if ATTENTION.value and not REPORT.value:
    raise UserError('--attention needs --report, the folder of the page.')
  cli.check_output(JSON.value)
  packed = is_pack(ckpt)
  if packed and not DATA_DIR.value and not config.data.dir:
    raise UserError(
      f'--ckpt={CKPT.value} is a packed network, which does not know where the'
      ' images are: give --data_dir.'
    )
  if not JSON.value and (packed or not os.access(ckpt, os.W_OK)):
    problem = 'a packed network' if packed else 'not writable'
    raise UserError(
      f'--ckpt={CKPT.value} is {problem}: give another file for the result'
      ' card with --json.'
    )
  if CHOOSE_THRESHOLD.value is not None:
    _check_threshold_flags(config, ckpt, packed)


def _check_threshold_flags(
  config: ml_collections.ConfigDict, ckpt: str | os.PathLike, packed: bool
) -> None:
  """Raises UserError if these flags let no threshold be chosen or stored."""
  if not CHOOSE_THRESHOLD.value > 0:  # NaN, too
    raise UserError(
      f'--choose_threshold={CHOOSE_THRESHOLD.value:g} must be more than 0.'
    )
  if packed:
    raise UserError(
      '--choose_threshold stores the threshold in a workdir, and --ckpt='
      f'{CKPT.value} is a packed network: choose the threshold first, then'
      ' pack.'
    )
  if not os.access(ckpt, os.W_OK):
    raise UserError(
      '--choose_threshold stores the threshold in the workdir, and --ckpt='
      f'{CKPT.value} is not writable: give a copy of it that is.'
    )
  if config.eval.distance != 'cosine':
    raise UserError(
      '--choose_threshold needs cosine similarities, but config.eval.distance='
      f'{config.eval.distance!r}.'
    )
  # The averages are closer to their person than single images, which are what
  # the commands that use a threshold compare.
  if config.eval.multi_query:
    raise UserError(
      '--choose_threshold needs pairs of single images, but'
      ' config.eval.multi_query=True averages several into a query: add'
      ' --config.eval.multi_query=False.'
    )


def check_single(names: Collection[str]) -> None:
  """Raises UserError unless there is one data set to choose a threshold on.

  A threshold chosen on a second data set would replace that of the first.
  """
  if len(names) > 1:
    raise UserError(
      f'--choose_threshold needs one data set, not {len(names)}'
      f' ({", ".join(names)}): name it by --dataset and --data_dir.'
    )


def make_shortening(model, variables, config) -> Callable | None:
  """Returns the ways to shorten embeddings that --fit asks for, or None."""
  if not FIT.value:
    return None
  from apnet_jax.index.shorter import Shortening
  from apnet_jax.inference.embedder import Embedder

  fingerprint = Embedder(model, variables, config).fingerprint
  return Shortening(FIT.value, DIMENSIONS.value, fingerprint)


def attention_of(model, variables, feature: str) -> Callable | None:
  """Returns a function that shows why two images are similar, if asked for."""
  if not ATTENTION.value:
    return None
  from apnet_jax.visualize import grad_cam

  return functools.partial(
    grad_cam.make_attend_pairs(model, feature), variables
  )


def report_folders(names: Collection[str]) -> dict[str, pathlib.Path]:
  """Returns the folder of the report on each data set, by name."""
  root = pathlib.Path(REPORT.value)
  if len(names) == 1:
    return dict.fromkeys(names, root)
  return {name: root / name.replace('/', '-') for name in names}


def check_report(names: Collection[str]) -> None:
  """Raises UserError if a report on these data sets cannot be written."""
  from apnet_jax.visualize import page, report

  folders = report_folders(names).values()
  if len(folders) > 1:
    page.check_folder(REPORT.value, [folder.name for folder in folders])
  for folder in folders:
    report.check_folder(folder)


if __name__ == '__main__':
  cli.run(main)
