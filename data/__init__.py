"""Data sets and input pipeline: the only package that imports TensorFlow."""

import os

# TensorFlow reads these when it is imported. JAX sets the first to '1', which
# lets through notes that tell a user nothing.
if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
# oneDNN announces itself twice; decoding and resizing do not use it.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
