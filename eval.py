"""Evaluates a trained network on its own data set or on another one.

  python eval.py --ckpt=runs/market
  python eval.py --ckpt=runs/market --data_dir=DIR --report=report

Everything else comes from the workdir that train.py wrote.
"""

import pathlib

from absl import flags

from apnet_jax import cli

CKPT = flags.DEFINE_string('ckpt', None, 'Workdir of train.py.', required=True)
WHICH = cli.define_which()
DATASET = flags.DEFINE_string(
  'dataset', '', 'Data set to evaluate on; default: the one trained on.'
)
DATA_DIR = flags.DEFINE_string(
  'data_dir', '', 'Folder of its raw images; default: as in training.'
)
JSON = flags.DEFINE_string('json', '', 'Writes the result card to this file.')
REPORT = flags.DEFINE_string(
  'report', '', 'Writes the card and a picture of rankings to this folder.'
)


def main(argv):
  cli.no_more_arguments(argv)

  cli.quieten()
  from apnet_jax import checkpoint
  from apnet_jax.retrieval import evaluation

  with checkpoint.open_for_reading(CKPT.value) as checkpoints:
    config = checkpoint.load_config(CKPT.value)
    if DATASET.value:
      if not DATA_DIR.value:
        raise ValueError(
          '--dataset needs --data_dir, the folder of its images.'
        )
      config.data.name = DATASET.value
    if DATA_DIR.value:
      config.data.dir = DATA_DIR.value
    cli.cache_compilation(config.compilation_cache_dir)

    from data import pipeline

    benchmark = pipeline.load_benchmark(config)
    print(benchmark.summary, flush=True)
    step = checkpoints.step(WHICH.value)
    chosen = {'step': step, 'which': WHICH.value}
    evaluated = evaluation.evaluate_checkpoint(
      checkpoints,
      step,
      config,
      checkpoint.load_run(CKPT.value)['num_classes'],
      benchmark,
    )
  card = evaluation.result_card(evaluated.result, config, benchmark, chosen)
  print(
    evaluation.format_table(
      {f'step {step}': evaluation.figures(evaluated.result)}
    )
  )
  if JSON.value:
    write_card(pathlib.Path(JSON.value), card)
  if REPORT.value:
    write_report(pathlib.Path(REPORT.value), card, evaluated, benchmark)


def write_card(path: pathlib.Path, card: dict) -> None:
  from apnet_jax.checkpoint import write_json

  write_json(path.parent, path.name, card)


def write_report(folder: pathlib.Path, card, evaluated, benchmark) -> None:
  from apnet_jax.visualize.ranks import draw_ranking

  write_card(folder / 'result.json', card)
  draw_ranking(evaluated, benchmark).save(folder / 'ranking.png')
  print(f'wrote {folder / "ranking.png"} and {folder / "result.json"}')


if __name__ == '__main__':
  cli.run(main)
