"""Data sets and input pipeline: the only package that imports TensorFlow."""

import os

# TensorFlow reads this when it is imported. JAX sets it to '1', which lets
# through notes that tell a user nothing.
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
# oneDNN announces itself twice; decoding and resizing do not use it.
os.environ['TF_ENABLE_ONEDNN_OPTS'] = '0'
