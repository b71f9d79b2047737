"""All fields of a configuration, with the paper's values as defaults.

`apnet_jax/config.py` defines the fields, with allowed values and sources in the
paper. The other configurations in this folder change some fields.
"""

from apnet_jax.config import get_config

__all__ = ['get_config']
