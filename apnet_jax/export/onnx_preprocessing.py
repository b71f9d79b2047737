"""The part of an ONNX file that resizes and normalises images."""

import numpy as np

from apnet_jax.export.graph import Graph
from apnet_jax.models import normalization

# ONNX's Resize is another operation: near the edges of an image it weighs
# pixels differently from Pillow. Here each resized pixel is a weighted sum, in
# the same order and with the same rounding as in `resizing`.
_PROGRAM = """
<ir_version: {ir}, opset_import: ["": {opset}, "apnet": 1]>
preprocessing ({images}) => (float[batch, 3, {height}, {width}] normalized)
<
  int64 few_rows = {{{height}}}, int64 few_columns = {{{width}}},
  float[3, 1, 1] factor = {{{factor}}}, float[3, 1, 1] shift = {{{shift}}}
>
{{
  {read}
  rows = Shape <start = 2, end = 3> (pixels)
  columns = Shape <start = 3, end = 4> (pixels)
  of_rows = apnet.Shares (rows, few_rows)
  of_columns = apnet.Shares (columns, few_columns)
  by_column = Transpose <perm = [1, 0]> (of_columns)
  per_row = Mul (rows, few_columns)
  per_column = Mul (columns, few_rows)
  fewer_by_columns = LessOrEqual (per_row, per_column)
  resized = If (fewer_by_columns) <
    then_branch = columns_first () => (then_resized) {{
      then_sum = MatMul (pixels, by_column)
      then_narrow = apnet.Round (then_sum)
      then_both = MatMul (of_rows, then_narrow)
      then_resized = apnet.Round (then_both)
    }},
    else_branch = rows_first () => (else_resized) {{
      else_sum = MatMul (of_rows, pixels)
      else_short = apnet.Round (else_sum)
      else_both = MatMul (else_short, by_column)
      else_resized = apnet.Round (else_both)
    }}
  >
  scaled = Mul (resized, factor)
  normalized = Sub (scaled, shift)
}}

<domain: "apnet", opset_import: ["": {opset}]>
Shares (size, resized) => (shares)
{{
  zero = Constant <value_float = 0.0> ()
  half = Constant <value_float = 0.5> ()
  one = Constant <value_float = 1.0> ()
  first = Constant <value_int = 0> ()
  step = Constant <value_int = 1> ()
  axis = Constant <value_ints = [1]> ()
  many = Cast <to = 1> (size)
  few = Cast <to = 1> (resized)
  scale = Div (many, few)
  count = Squeeze (size)
  pixel = Range (first, count, step)
  real_pixel = Cast <to = 1> (pixel)
  place = Add (real_pixel, half)
  resized_pixel = Range (first, resized, step)
  real_resized_pixel = Cast <to = 1> (resized_pixel)
  middle = Add (real_resized_pixel, half)
  center = Mul (middle, scale)
  centers = Unsqueeze (center, axis)
  difference = Sub (place, centers)
  apart = Abs (difference)
  reach = Max (scale, one)
  distance = Div (apart, reach)
  nearness = Sub (one, distance)
  weights = Max (nearness, zero)
  total = ReduceSum (weights, axis)
  shares = Div (weights, total)
}}

<domain: "apnet", opset_import: ["": {opset}]>
Round (value) => (rounded)
{{
  half = Constant <value_float = 0.5> ()
  above = Add (value, half)
  rounded = Floor (above)
}}
"""
# Input of the program, and how it becomes float32 [batch, 3, height, width]
# with values 0..255.
_INPUTS = {
  'normalized': (
    'float[batch, 3, {size[0]}, {size[1]}] {name}',
    'std = Constant <value = float[3, 1, 1] {{{std}}}> ()\n'
    '  mean = Constant <value = float[3, 1, 1] {{{mean}}}> ()\n'
    '  spread = Mul ({name}, std)\n'
    '  level = Add (spread, mean)\n'
    '  pixels = apnet.Round (level)',
  ),
  'uint8': (
    'uint8[batch, height, width, 3] {name}',
    'channels_first = Transpose <perm = [0, 3, 1, 2]> ({name})\n'
    '  pixels = Cast <to = 1> (channels_first)',
  ),
  'unit': (
    'float[batch, 3, height, width] {name}',
    'levels = Constant <value_float = 255.0> ()\n'
    '  pixels = Mul ({name}, levels)',
  ),
}


def build(onnx, graph: Graph, name: str, opset: int, ir: int):
  """Returns an ONNX model that resizes and normalises images.

  Resizing is bilinear with antialiasing. Values differ from those of Pillow by
  one grey level at most.

  Args:
    onnx: the library.
    graph: the network as it is exported; it resizes.
    name: name of the input. The output is `normalized`, float32 [batch, 3,
      height, width].
    opset: version of the operations.
    ir: version of the format.
  """
  mean = np.asarray(normalization.MEAN, np.float32)
  std = np.asarray(normalization.STD, np.float32)
  images, read = (
    text.format(
      name=name, size=graph.input_size,
      mean=_numbers(255 * mean), std=_numbers(255 * std),
    )
    for text in _INPUTS[graph.takes]
  )  # fmt: skip
  height, width = graph.image_size
  text = _PROGRAM.format(
    ir=ir, opset=opset, images=images, read=read, height=height, width=width,
    factor=_numbers(1 / (255 * std)), shift=_numbers(mean / std),
  )  # fmt: skip
  model = onnx.inliner.inline_local_functions(onnx.parser.parse_model(text))
  del model.opset_import[:]
  model.opset_import.append(onnx.helper.make_opsetid('', opset))
  return model


def _numbers(array: np.ndarray) -> str:
  return ', '.join(str(value) for value in array)
