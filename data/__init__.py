"""Data sets and the input pipeline, which uses TensorFlow."""

from apnet_jax.optional import quieten_tensorflow

quieten_tensorflow()
