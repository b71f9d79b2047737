"""Person re-identification with Attention Pyramid Networks, in JAX."""

import importlib

from apnet_jax.config import get_config
from apnet_jax.models.apnet import create_model
from apnet_jax.models.torch_weights import load_torch_weights
from apnet_jax.retrieval.metrics import evaluate_retrieval
from apnet_jax.retrieval.rerank import k_reciprocal_rerank
from apnet_jax.version import __version__

__all__ = [
  'Embedder',
  '__version__',
  'create_model',
  'evaluate_retrieval',
  'get_config',
  'k_reciprocal_rerank',
  'load_torch_weights',
]


def __getattr__(name: str):
  """Imports `Embedder` at its first use, since it needs Orbax and Pillow."""
  if name == 'Embedder':
    module = importlib.import_module('apnet_jax.inference.embedder')
    return module.Embedder
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
