"""Data sets and the input pipeline: the only package that uses TensorFlow."""

import os

# TensorFlow reads these variables when it is imported. JAX sets the first to
# '1', which lets through log lines that are of no use to a user.
if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
# oneDNN logs two lines when it is loaded; decoding and resizing do not use it.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
