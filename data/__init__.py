"""Data sets and the input pipeline: the only package that imports TensorFlow."""

import os

# TensorFlow reads this when it is imported. JAX sets it to '1', which lets
# through notes that tell a user nothing.
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
