"""Import and export of PyTorch weights by name.

Modules have the names of their PyTorch counterparts (in torchvision, in timm,
and in the released APNet and RGA code). A PyTorch name is therefore the path of
a variable, except for a few rules in this file. A "state dict" holds weights on
their way between files and networks: a dict from PyTorch names to numpy arrays
in PyTorch's layout.
"""

from collections.abc import Collection, Mapping
import logging
import re
from typing import NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.models.apnet import (
  create_model,
  initialize,
  variable_shapes,
)
from apnet_jax.models.network_fields import NETWORK_FIELDS, has_pyramids
from apnet_jax.models.weight_files import read_weights

Path = tuple[str, ...]  # collection, modules and leaf of a variable

# PyTorch's names of the leaves of a network.
TORCH_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
# Redundant names in files: counters of batches, and the copies of `base` that
# the released APNet code stores under `base_1` to `base_5`.
IGNORED = re.compile(r'num_batches_tracked$|^base_[1-5]\.')
# Names in files of the RGA code, and the names here.
RGA_NAMES = {
  r'^backbone\.(?!rga_att)': 'base.',
  r'^backbone\.': '',
  r'^feat_bn\.': 'bottleneck.',
  r'^cls\.': 'classifier.',
}
# Names in files of fast-reid beside its backbone, whose prefix is RGA's, too.
FAST_REID = re.compile(r'^(heads\.|pixel_(mean|std)$)')
# Names in files of torchvision's first DenseNets, and the names here.
OLD_DENSENET_NAMES = {r'(denselayer\d+\.(?:norm|conv))\.([12])\.': r'\1\2.'}
# Files of MoCo hold a query encoder, which is the backbone with a head, and the
# rest of the pre-training: a momentum encoder, a queue, prototypes.
QUERY_ENCODER = 'encoder_q.'
# Heads of files that hold a backbone: the classifier for ImageNet; the
# projection of MoCo (fc), and those of LUPerson-NL (fc1, fc2, embed_fc).
HEAD = re.compile(r'^(fc|fc1|fc2|embed_fc|classifier|head|AuxLogits)\.')
SPATIAL = re.compile(r'\.gg_spatial\.0\.weight\b')
CLASSIFIER = re.compile(r'^(local\.)?classifier\.')
MAX_NAMES = 20  # names of each kind that an error lists
# Fields of the network that change neither names nor shapes of weights.
NOT_IN_WEIGHTS = ('last_stride', 'stem_relu', 'order')
# Fields of `config.model` that determine the names and shapes of weights.
WEIGHT_FIELDS = (
  *(field for field in NETWORK_FIELDS if field not in NOT_IN_WEIGHTS),
  'reduction',
)


class Imported(NamedTuple):
  """The result of an import of weights.

  Attributes:
    variables: 'params' and 'batch_stats' of a network, with the weights.
    notes: lines for the user about weights that were not imported.
  """

  variables: Mapping
  notes: tuple[str, ...]


def load_torch_weights(
  weights,
  config: ml_collections.ConfigDict,
  num_classes: int,
  *,
  image_size: tuple[int, int] | None = None,
  seed: int = 0,
) -> Mapping:
  """Returns the variables of a network with imported PyTorch weights.

  The weights belong either to a whole network (of the released APNet or RGA
  code, or written by `export-weights`) or to a backbone alone (of torchvision
  or timm, trained on ImageNet; or pre-trained on people, such as LUPerson's).
  Of a file of MoCo the query encoder is taken, of one of fast-reid the
  backbone. Names and shapes must equal those of the network or of its backbone.
  The only exception is a classifier for another number of identities, which is
  not imported.

  Variables that are not imported are initialised at random, and a warning of
  the `logging` module names them. Weights do not determine all fields of a
  configuration (not `last_stride`, `stem_relu` and `order`). Files of the
  released APNet code need the fields of `configs/market.py:official`.

  Args:
    weights: a file (.pth, .safetensors or .npz), `hf://owner/name` on the
      Hugging Face Hub, or a dict from names to arrays. The arrays may be nested
      under 'model' or 'state_dict', and names may start with 'module.'.
    config: the `model` part of a configuration.
    num_classes: number of identities of the classifier.
    image_size: height and width of the images in pixels, on which the weights
      of spatial attention depend. None derives a size from the weights, which
      works if height and width are multiples of 16.
    seed: seed of the random weights.

  Returns:
    'params' and 'batch_stats', the first argument of the module's `apply`.

  Raises:
    UserError: the file cannot be read, or its weights belong to another
      network. The message lists missing and unexpected names and wrong shapes.
  """
  model = create_model(config, num_classes)
  state_dict = normalize_names(read_weights(weights))
  image_size = image_size or _image_size(state_dict, config)
  imported = import_state_dict(
    state_dict, variable_shapes(model, image_size), config
  )
  for note in imported.notes:
    logging.getLogger(__name__).warning(note)
  return jax.device_put(
    _initialize_missing(imported.variables, model, image_size, seed)
  )


def read_state_dict(weights, variables: Mapping) -> dict[str, np.ndarray]:
  """Reads weights for a network, whose size limits that of the file.

  Args:
    weights: a file, `hf://owner/name` or a dict; see `load_torch_weights`.
    variables: 'params' and 'batch_stats' of the network, arrays or shapes.

  Returns:
    The weights by name, see `normalize_names`.

  Raises:
    UserError: the weights cannot be read.
  """
  # Files may also contain copies of the weights, the state of an optimiser, and
  # heads of pre-training.
  network_bytes = sum(4 * leaf.size for leaf in jax.tree.leaves(variables))
  max_bytes = 8 * network_bytes + 2**26
  return normalize_names(read_weights(weights, max_bytes))


def normalize_names(state_dict: Mapping) -> dict[str, np.ndarray]:
  """Renames the weights of all known kinds of files to the names used here.

  Args:
    state_dict: dict from names to arrays, as a file contains it; see
      `load_torch_weights`.

  Returns:
    A flat dict with the names that `torch_name` returns, without redundant
    entries and without the heads of pre-training. Of fast-reid, the names of
    `FAST_REID` are still there.

  Raises:
    UserError: a name is not a string, or a value is not a numeric array.
  """
  wrappers = ('model', 'state_dict')
  while inner := [
    state_dict[key]
    for key in wrappers
    if isinstance(state_dict.get(key), Mapping)
  ]:
    state_dict = inner[0]
  for name, value in state_dict.items():
    if not isinstance(name, str):
      raise UserError(
        f'the name {name!r} in the weights is not a string: the file is not a'
        ' state_dict of PyTorch.'
      )
    dtype = np.asarray(value).dtype
    if dtype.kind not in 'fiub' and dtype != jnp.bfloat16:
      raise UserError(f'the weights {name!r} are not an array of numbers.')
  named = {k.removeprefix('module.'): v for k, v in state_dict.items()}
  named = _query_encoder(named) or named
  named = {k: v for k, v in named.items() if not IGNORED.search(k)}
  is_rga = any(k.startswith('backbone.') for k in named)
  for old, new in (RGA_NAMES if is_rga else OLD_DENSENET_NAMES).items():
    named = {re.sub(old, new, k): v for k, v in named.items()}
  if any(k.startswith('base.') for k in named):
    return named
  return {f'base.{k}': v for k, v in named.items() if not HEAD.search(k)}


def _query_encoder(named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the weights of MoCo's query encoder, without their prefix.

  Args:
    named: weights of a file by name.

  Returns:
    A dict by the names of the backbone; empty if the file is not of MoCo.
  """
  return {
    name.removeprefix(QUERY_ENCODER): value
    for name, value in named.items()
    if name.startswith(QUERY_ENCODER)
  }


def import_state_dict(
  state_dict: Mapping[str, np.ndarray],
  variables: Mapping,
  config: ml_collections.ConfigDict,
) -> Imported:
  """Replaces the variables of a network by the weights of a state dict.

  Args:
    state_dict: weights under the names that `torch_name` returns.
    variables: 'params' and 'batch_stats' of the network, arrays or shapes.
    config: the `model` part of the network's configuration.

  Returns:
    The new variables. Variables that are not in the weights stay as they are,
    and notes name them.

  Raises:
    UserError: the weights belong to another network.
  """
  leaves = traverse_util.flatten_dict(dict(variables))
  paths = torch_names(leaves)
  shapes = {k: torch_shape(k, leaves[path].shape) for k, path in paths.items()}
  state_dict, notes = dict(state_dict), []
  if any(FAST_REID.search(name) for name in state_dict):
    state_dict = {
      k: v for k, v in state_dict.items() if not FAST_REID.search(k)
    }
    # fastreid/modeling/backbones/resnet.py: ceil_mode instead of padding.
    notes.append(
      'these weights come from fast-reid, whose max pooling is shifted by one'
      ' pixel against the one here: fine-tune the network before you use it'
    )
  skipped = _names_beside_backbone(state_dict, shapes)
  if skipped:
    modules = sorted(
      {'.'.join(paths[n][1 : 3 if 'local' in n else 2]) for n in skipped}
    )
    notes.append(
      f'these weights are of a backbone alone; left as initialised:'
      f' {", ".join(modules)}'
    )
  for name in filter(CLASSIFIER.search, shapes.keys() - skipped):
    if note := _classifier_mismatch(state_dict.get(name), shapes[name]):
      notes.append(f'{name} left as initialised: {note}')
      state_dict.pop(name, None)
      skipped.add(name)
  required = shapes.keys() - skipped
  _check_names(state_dict, required, shapes, config)
  for name in required:
    leaf = leaves[paths[name]]
    leaves[paths[name]] = from_torch(name, state_dict[name], leaf)
  return Imported(traverse_util.unflatten_dict(leaves), tuple(notes))


def _names_beside_backbone(state_dict, shapes: Collection[str]) -> set[str]:
  """Returns the names of the weights that a file of a backbone lacks.

  If the weights belong to a backbone alone, the function also copies the fourth
  stage within `state_dict`, as the initial weights of the local branch.

  Args:
    state_dict: weights, to which the function may add entries.
    shapes: names of all weights of the network.

  Returns:
    The names; an empty set if the weights belong to a whole network.
  """
  if not _is_backbone(state_dict):
    return set()
  copies = {
    name: name.replace('local.', 'base.', 1)
    for name in shapes
    if name.startswith('local.layer4.')
  }
  state_dict |= {k: state_dict[v] for k, v in copies.items() if v in state_dict}
  return {
    name
    for name in shapes
    if not name.startswith('base.') and name not in copies
  }


def _is_backbone(state_dict: Collection[str]) -> bool:
  """Returns whether all names in a state dict are names of a backbone."""
  return all(
    name.startswith('base.') or FAST_REID.search(name) for name in state_dict
  )


def _classifier_mismatch(given, shape: tuple[int, ...]) -> str:
  """Returns the reason not to import the weights of a classifier, or ''.

  The weights are not imported if they are absent or for another number of
  identities, which is the last dimension but one.

  Args:
    given: weights of the classifier in a file; None if the file has none.
    shape: shape of the network's classifier in PyTorch.
  """
  if given is None:
    return 'it is not in the weights'
  given = np.shape(given)
  if len(given) == len(shape) and given[-1] == shape[-1]:
    if given[-2] != shape[-2]:
      return f'{given[-2]} identities in the weights, {shape[-2]} here'
  return ''


def to_state_dict(variables: Mapping) -> dict[str, np.ndarray]:
  """Converts variables to a state dict.

  `import_state_dict` does the inverse. PyTorch's batch normalisations also have
  counters of batches, which the state dict contains as 0.

  Args:
    variables: 'params' and 'batch_stats' of a network.

  Returns:
    A dict from PyTorch names to arrays in PyTorch's layout.
  """
  leaves = traverse_util.flatten_dict(dict(variables))
  state_dict = {}
  for name, path in torch_names(leaves).items():
    state_dict[name] = to_torch(name, np.asarray(leaves[path]))
    if name.endswith('.running_mean'):
      counter = name.replace('running_mean', 'num_batches_tracked')
      state_dict[counter] = np.zeros((), np.int64)
  return state_dict


def torch_names(paths: Collection[Path]) -> dict[str, Path]:
  """Returns a dict from PyTorch's names to the paths of variables.

  Args:
    paths: paths of all variables of a network.
  """
  # Only the shared split attention has a `bn1` within a pyramid level.
  shared = {path[1:3] for path in paths if path[3:4] == ('bn1',)}
  return {torch_name(path, path[1:3] in shared): path for path in sorted(paths)}


def torch_name(path: Path, shared: bool = False) -> str:
  """Returns PyTorch's name of a variable.

  The released APNet code numbers its attention modules from the stem, so that
  the attention after stage 1 is `att2`. Modules that this code lacks (levels in
  which each part has its own attention) get names of the same form.

  Args:
    path: collection, modules and leaf of the variable, such as ('params',
      'base', 'conv1', 'kernel').
    shared: whether the variable belongs to a `SharedChannelAttention`.

  Returns:
    The name, such as 'base.conv1.weight'.
  """
  _, top, *modules, leaf = path
  name = [top, *modules, TORCH_LEAVES[leaf]]
  if site := re.fullmatch(r'att(\d)', top):
    match = re.fullmatch(r'(level|norm)(\d)', modules[0])
    kind, level = match.groups()  # type: ignore[union-attr]  # always matches
    rest = modules[1:]
    number, deep = int(site[1]) + 1, 's' * (int(level) - 1)
    if kind == 'norm':
      bn = {'2': 'BN', '3': 'BN_'}[level]
      name = [f'{bn}{number}', 'bottleneck2']
    elif shared:
      name = [f'att_{deep}{number}', *rest]
    elif rest[0] in ('fc1', 'fc2'):
      fc = {'fc1': '0', 'fc2': '2'}[rest[0]]
      name = [f'att{number}', *_level_name(level), 'fc', fc]
    else:  # the RGA code has no attention after the stem and counts stages
      name = [f'rga_att{site[1]}', *_level_name(level), *rest]
    name.append(TORCH_LEAVES[leaf])
  return '.'.join(name)


def _level_name(level: str) -> list[str]:
  """Returns the part of a PyTorch name for a pyramid level.

  Args:
    level: number of the level, counted from '1'.

  Returns:
    A list of one module name; an empty list for level 1.
  """
  return [] if level == '1' else [f'level{level}']


def _is_convolution(name: str) -> bool:
  """Returns whether PyTorch stores weights as a 1x1 convolution.

  Otherwise the weights are the matrix of a fully-connected layer.

  Args:
    name: PyTorch's name of the weights.
  """
  return bool(re.search(r'_spatial\.|^att_s|\.se\.', name))


def torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape that PyTorch gives to a variable.

  Args:
    name: PyTorch's name of the variable.
    shape: shape of the variable in JAX.
  """
  match shape:
    case (height, width, inputs, outputs):
      return outputs, inputs, height, width
    case (1, inputs, outputs):
      size = (1, 1) if _is_convolution(name) else ()
      return outputs, inputs, *size
    case (groups, inputs, outputs):
      return groups, outputs, inputs
    case (inputs, outputs) if name.endswith('.bias'):
      return (outputs,) if inputs == 1 else (inputs, outputs)
    case (inputs, outputs):
      return outputs, inputs
  return shape


def to_torch(name: str, value: np.ndarray) -> np.ndarray:
  """Converts a variable to PyTorch's layout.

  Args:
    name: PyTorch's name of the variable.
    value: the variable in the layout of JAX.
  """
  shape = torch_shape(name, value.shape)
  if value.ndim == 4:
    value = value.transpose(3, 2, 0, 1)
  elif not name.endswith('.bias') and value.ndim > 1:
    value = value.swapaxes(-1, -2)
  return np.ascontiguousarray(value.reshape(shape))


def from_torch(name: str, value: np.ndarray, leaf) -> np.ndarray:
  """Converts an array from PyTorch's layout, the inverse of `to_torch`.

  NumPy converts it: JAX would compile a program for each shape.

  Args:
    name: PyTorch's name of the variable.
    value: array in PyTorch's layout.
    leaf: array or `jax.ShapeDtypeStruct` with the shape and type to return.
  """
  value = np.asarray(value)
  shape = leaf.shape
  if len(shape) == 4:
    value = value.transpose(2, 3, 1, 0)
  elif not name.endswith('.bias') and len(shape) > 1:
    value = value.reshape(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2)
  # A copy, which does not share the caller's memory.
  return np.array(value.reshape(shape), leaf.dtype)


def _check_names(state_dict, required, shapes, config) -> None:
  """Raises one UserError for all names and shapes that do not fit.

  Args:
    state_dict: weights to import.
    required: names of weights that `state_dict` must contain.
    shapes: shapes of all weights of the network in PyTorch, by name.
    config: the `model` part of the network's configuration.
  """
  problems = {
    'missing': required - state_dict.keys(),
    'unexpected': state_dict.keys() - shapes.keys(),
    'with a wrong shape': [
      f'{name}: {np.shape(state_dict[name])} given, {shapes[name]} expected'
      for name in required & state_dict.keys()
      if np.shape(state_dict[name]) != shapes[name]
    ],
  }
  if not any(problems.values()):
    return
  network = ', '.join(f'{field}={config[field]!r}' for field in WEIGHT_FIELDS)
  lines = [f'the weights are not of this network (config.model: {network}):']
  for kind, names in problems.items():
    if names:
      lines.append(f'  {len(names)} {kind}:')
      lines += [f'    {name}' for name in sorted(names)[:MAX_NAMES]]
      if len(names) > MAX_NAMES:
        lines.append(f'    and {len(names) - MAX_NAMES} more')
  if any(SPATIAL.search(name) for name in problems['with a wrong shape']):
    lines.append(
      '  The second dimension of gg_spatial (spatial attention) is twice the'
      ' number of positions of a part. It depends on the image size that the'
      ' weights were made for: set config.data.image_size (or image_size=) to'
      ' that size.'
    )
  raise UserError('\n'.join(lines))


def _image_size(state_dict: Mapping[str, np.ndarray], config):
  """Returns an image size for which a network has weights of the same shapes.

  Only spatial attention depends on the image size. The attention after stage 1
  depends only on the number of positions there, height / 4 times width / 4.
  Images that are 16 pixels wide, and high enough for the same number of
  positions, therefore give weights of the same shape.

  Args:
    state_dict: weights under the names that `torch_name` returns.
    config: the `model` part of the network's configuration.

  Returns:
    Height and width in pixels.

  Raises:
    UserError: the network has spatial attention, and the weights do not
      determine the image size.
  """
  if not (config.attention == 'spatial' and has_pyramids(config)):
    return 96, 96  # enough for every backbone
  kernel = state_dict.get('rga_att1.gg_spatial.0.weight')
  if kernel is not None and config.backbone != 'inception_v3':
    return np.shape(kernel)[1] // 2, 16
  if any(SPATIAL.search(k) for k in state_dict) or _is_backbone(state_dict):
    raise UserError(
      "config.model.attention='spatial' depends on the size of the images,"
      ' which these weights do not determine: pass image_size=(height, width).'
    )
  return 256, 128  # any size: the weights do not fit, as `_check_names` reports


def _initialize_missing(
  variables: Mapping, model, image_size, seed: int
) -> Mapping:
  """Initialises the variables of which only the shape is given.

  Args:
    variables: 'params' and 'batch_stats', arrays or `jax.ShapeDtypeStruct`.
    model: the network.
    image_size: height and width of the images in pixels.
    seed: seed of the random weights.

  Returns:
    The variables, all as arrays.
  """
  missing = [
    leaf
    for leaf in jax.tree.leaves(variables)
    if isinstance(leaf, jax.ShapeDtypeStruct)
  ]
  if not missing:
    return variables
  initial = initialize(model, image_size, seed)
  return jax.tree.map(
    lambda new, leaf: new if isinstance(leaf, jax.ShapeDtypeStruct) else leaf,
    initial,
    variables,
  )


def released_copies(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the backbone's weights under their second names in released files.

  The released code registers the stages again as `base_1` (the stem) to
  `base_5`, and loads only files with both names.

  Args:
    state_dict: weights of the network by name, such as `base.conv1.weight`.

  Returns:
    The same arrays by second name, such as `base_1.0.weight`.
  """
  second = {r'^base\.conv1\.': 'base_1.0.', r'^base\.bn1\.': 'base_1.1.'}
  second |= {rf'^base\.layer{i}\.': f'base_{i + 1}.0.' for i in range(1, 5)}
  return {
    re.sub(old, new, name): value
    for old, new in second.items()
    for name, value in state_dict.items()
    if re.match(old, name)
  }
