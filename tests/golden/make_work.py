"""Writes the work of training and embedding to work.json.

  python -m tests.golden.make_work

Run it from the root of the repository, once with each supported version of JAX.

Multiply-adds are counted exactly, in traced computations. Figures of the
compiler, which depend on the version of JAX, describe three programs: the step
and the embedding of a small run on 4 CPU devices, which mostly process weights
and their moments; and one stage of the network, which mostly processes maps.
The programs that a run compiles also depend on the version of JAX.
"""

import json
import pathlib
import tempfile
from unittest import mock

from tests import conftest  # noqa: F401 - the devices and flags of the tests

import jax  # isort: skip

from apnet_jax.accelerators.traced_programs import TracedPrograms
from apnet_jax.models.apnet import APNet, create_model, variable_shapes
from apnet_jax.parallel import devices
from apnet_jax.retrieval.embed import make_embed_batch
from apnet_jax.training import trainer
from apnet_jax.workdir.checkpoints import Checkpoints
from benchmarks.work import compiler_figures
from tests.compilation import counting
from tests.fakes import make_feed, small_config

FILE = pathlib.Path(__file__).with_name('work.json')
BATCH = 8


def count_multiply_adds() -> dict[str, int]:
  """Counts the multiply-adds of a batch, by ResNet-14 with APNet-C_2."""
  config = small_config()
  config.model.levels = 2
  work = TracedPrograms.of(config, num_classes=751)
  return {what: work.multiply_adds(what, BATCH) for what in ('train', 'embed')}


def measure() -> dict:
  """Returns all figures that depend on the version of JAX."""
  return measure_run(steps=4) | {'stage': measure_stage()}


def measure_stage() -> dict[str, int]:
  """Returns the compiler's figures of the first stage and its gradient.

  The stage includes its pyramid of two levels.
  """
  config = small_config()
  config.model.levels = 2
  model = create_model(config.model, num_classes=1)
  variables = variable_shapes(model, (96, 48))

  def both_ways(variables, x, cotangent):
    def forth(params, x):
      return model.apply(
        variables | {'params': params}, x, stage=1, train=True,
        method=APNet._stage, mutable=['batch_stats'],
      )  # fmt: skip

    _, back, stats = jax.vjp(forth, variables['params'], x, has_aux=True)
    return back(cotangent), stats

  x, out = (
    jax.ShapeDtypeStruct((BATCH, 24, 12, c), 'float32') for c in (64, 256)
  )
  return compiler_figures(jax.jit(both_ways).lower(variables, x, out))


def measure_run(steps: int) -> dict:
  """Trains, evaluates after the third and the last step, and measures the run.

  `tests/training/test_trainer.py` compiles the same step, so that it may be in
  the compilation cache.

  Args:
    steps: number of steps, more than three.

  Returns:
    `programs`, the number of compiled programs of each name; `train` and
    `embed`, the compiler's figures of the step and the embedding.
  """
  config = small_config(steps=steps, eval_every_epochs=1)
  feed, runs = make_feed(config, steps_per_epoch=3), []

  def keep(*args):
    runs.append(Run(*args))
    return runs[-1]

  Run = trainer.Run
  jax.clear_caches()  # earlier code has compiled some of the programs
  with (
    counting() as programs,
    tempfile.TemporaryDirectory() as workdir,
    mock.patch.object(trainer, 'Run', keep),
    mock.patch.object(Checkpoints, 'save'),  # Orbax compiles too
  ):
    state = trainer.train(config, feed, workdir).state
  programs = dict(sorted(programs.items()))
  batch = devices.shard_batch(next(feed.batches(0)))
  embed = make_embed_batch(runs[0].programs.model, config.eval)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  return {
    'programs': programs,
    'train': compiler_figures(runs[0].programs.lower_step()),
    'embed': compiler_figures(embed.lower(variables, batch['image'])),
  }


def main() -> None:
  known = json.loads(FILE.read_text()) if FILE.exists() else {'jax': {}}
  measured, longer = measure(), measure_run(steps=6)
  if measured['programs'] != longer['programs']:
    raise RuntimeError(
      f'{measured["programs"]} were compiled for 4 steps and'
      f' {longer["programs"]} for 6.'
    )
  known['multiply_adds'] = count_multiply_adds()
  known['jax'][jax.__version__] = measured
  known['jax'] = dict(sorted(known['jax'].items()))
  FILE.write_text(json.dumps(known, indent=1) + '\n')


if __name__ == '__main__':
  main()
