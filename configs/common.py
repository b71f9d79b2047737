"""All fields of a configuration, with the paper's values as defaults.

They are defined in `apnet_jax/config.py`, with allowed values and sources in
the paper. The other configurations in this folder change some of them.
"""

from apnet_jax.config import get_config

__all__ = ['get_config']
