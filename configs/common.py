"""All fields of a configuration, with the paper's values as defaults.

They are defined in `apnet_jax/config.py`, each with its place in the paper and
its allowed values. The configurations beside this file change a few of them.
"""

from apnet_jax.config import get_config

__all__ = ['get_config']
