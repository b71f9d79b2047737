"""Evaluates a checkpoint: what eval.py does."""

from collections.abc import Mapping

import jax
import ml_collections

from apnet_jax import parallel
from apnet_jax.checkpoint import Checkpoints
from apnet_jax.feed import Benchmark
from apnet_jax.models.apnet import create_model
from apnet_jax.retrieval import evaluate as evaluation
from apnet_jax.retrieval.embed import make_embed


def evaluate_checkpoint(
  checkpoints: Checkpoints,
  step: int,
  config: ml_collections.ConfigDict,
  num_classes: int,
  benchmark: Benchmark,
) -> evaluation.Evaluation:
  """Evaluates the model after `step` steps on a benchmark.

  Args:
    checkpoints: of the run.
    step: of one of them.
    config: the whole configuration of the run.
    num_classes: identities the run was trained on.
    benchmark: what to evaluate on; its identities need not be the run's.

  Raises:
    ValueError: the checkpoint cannot be read or is of another model.
  """
  model = create_model(config.model, num_classes)
  variables = checkpoints.restore_variables(
    step, _like(model, tuple(config.data.image_size))
  )
  embed = make_embed(model, config.eval.batch_size, config.eval.flip)
  return evaluation.evaluate(embed, variables, benchmark, config.eval.max_rank)


def _like(model, image_size: tuple[int, int]) -> Mapping:
  """Shapes, types and placement of the model's variables."""
  images = jax.ShapeDtypeStruct((1, *image_size, 3), 'float32')
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=parallel.replicated()
    ),
    variables,
  )
