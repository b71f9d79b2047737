"""Person re-identification with Attention Pyramid Networks, in JAX."""

from apnet_jax.models.apnet import create_model
from apnet_jax.retrieval.metrics import evaluate_retrieval

__all__ = ['create_model', 'evaluate_retrieval']
__version__ = '0.1.0'
