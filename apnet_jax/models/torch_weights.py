"""PyTorch weights: into a network by name, and out of it.

Modules carry the names of their PyTorch counterparts (torchvision's, timm's,
those of the released APNet and RGA code), so that a name is a path but for the
few rules below. Weights move between files and networks as a "state dict", a
dict from names to numpy arrays in PyTorch's layout.
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
from apnet_jax.models.network_fields import has_pyramids
from apnet_jax.models.weight_files import read_weights

Path = tuple[str, ...]

LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
# Names in a file that say nothing new: counters of batches, and the copies of
# `base` that the released APNet code keeps under `base_1` to `base_5`.
IGNORED = re.compile(r'num_batches_tracked$|^base_[1-5]\.')
# Names of other files, and what they are here.
RGA_NAMES = {
  r'^backbone\.(?!rga_att)': 'base.',
  r'^backbone\.': '',
  r'^feat_bn\.': 'bottleneck.',
  r'^cls\.': 'classifier.',
}
OLD_NAMES = {  # of torchvision's first DenseNets
  r'(denselayer\d+\.(?:norm|conv))\.([12])\.': r'\1\2.'
}
IMAGENET_HEAD = re.compile(r'^(fc|classifier|head|AuxLogits)\.')
SPATIAL = re.compile(r'\.gg_spatial\.0\.weight\b')
CLASSIFIER = re.compile(r'^(local\.)?classifier\.')
SHOWN = 20  # names of each kind in an error
DESCRIBED = (
  'backbone', 'attention', 'levels', 'radix', 'stacked', 'sites',
  'split_attention', 'norm_after_split', 'hidden', 'reduction', 'se_blocks',
  'multi_part',
)  # fmt: skip


class Imported(NamedTuple):
  """Variables that weights were put into, and what a person should know."""

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
  """Variables of the network that `config` describes, from PyTorch weights.

  Weights of a whole network (released APNet or RGA code, `export-weights`) must
  fit name by name, but that a classifier of another width is left out. Weights
  of a backbone alone (torchvision or timm, trained on ImageNet) must fit the
  backbone. What is left out starts at random, and a message of the `logging`
  module says so. Weights do not say how a network computes (`last_stride`,
  `stem_relu`, `order`): released APNet files want the fields of
  `configs/market.py:official`.

  Args:
    weights: a file (.pth, .safetensors or .npz), `hf://owner/name` on the
      Hugging Face Hub, or a dict from names to arrays; the dict may lie under
      'model' or 'state_dict', and names may start with 'module.'.
    config: the `model` part of a configuration.
    num_classes: identities of the classifier.
    image_size: height and width, to which weights of spatial attention are
      tied; None takes them from the weights, where 16 divides both.
    seed: of the random weights.

  Returns:
    'params' and 'batch_stats', to be given to `apply`.

  Raises:
    UserError: the file cannot be read, or its weights are of another network;
      the message lists missing, unexpected and misshapen names.
  """
  model = create_model(config, num_classes)
  state_dict = normalize_names(read_weights(weights))
  image_size = image_size or _image_size(state_dict, config)
  imported = import_state_dict(
    state_dict, variable_shapes(model, image_size), config
  )
  for note in imported.notes:
    logging.getLogger(__name__).warning(note)
  return _fill(imported.variables, model, image_size, seed)


def import_weights(
  weights, variables: Mapping, config: ml_collections.ConfigDict
) -> Imported:
  """Puts weights into the variables of a network that exists.

  Args:
    weights: see `load_torch_weights`.
    variables: of the network; leaves that weights lack stay as they are.
    config: the `model` part of its configuration.

  Raises:
    UserError: see `load_torch_weights`.
  """
  # Files may hold copies, the state of an optimiser, and a head for ImageNet.
  room = 8 * sum(4 * leaf.size for leaf in jax.tree.leaves(variables)) + 2**26
  state_dict = normalize_names(read_weights(weights, room))
  return import_state_dict(state_dict, variables, config)


def normalize_names(state_dict: Mapping) -> dict[str, np.ndarray]:
  """The names that `torch_name` gives, from those of the known files."""
  wrappers = ('model', 'state_dict')
  while inner := [
    state_dict[key]
    for key in wrappers
    if isinstance(state_dict.get(key), Mapping)
  ]:
    state_dict = inner[0]
  for name, value in state_dict.items():
    if not isinstance(name, str):
      raise UserError(f'weights are named by strings, not by {name!r}.')
    dtype = np.asarray(value).dtype
    if dtype.kind not in 'fiub' and dtype != jnp.bfloat16:
      raise UserError(f'the weights {name!r} are not an array of numbers.')
  named = {k.removeprefix('module.'): v for k, v in state_dict.items()}
  named = {k: v for k, v in named.items() if not IGNORED.search(k)}
  of_rga = any(k.startswith('backbone.') for k in named)
  for old, new in (RGA_NAMES if of_rga else OLD_NAMES).items():
    named = {re.sub(old, new, k): v for k, v in named.items()}
  if any(k.startswith('base.') for k in named):
    return named
  return {
    f'base.{k}': v for k, v in named.items() if not IMAGENET_HEAD.search(k)
  }


def import_state_dict(
  state_dict: Mapping[str, np.ndarray],
  variables: Mapping,
  config: ml_collections.ConfigDict,
) -> Imported:
  """`import_weights` of weights under the names of `torch_name`."""
  leaves = traverse_util.flatten_dict(dict(variables))
  paths = torch_names(leaves)
  shapes = {k: torch_shape(k, leaves[path].shape) for k, path in paths.items()}
  state_dict, notes = dict(state_dict), []
  absent = _absent_by_right(state_dict, shapes)
  if absent:
    parts = sorted(
      {'.'.join(paths[n][1 : 3 if 'local' in n else 2]) for n in absent}
    )
    notes.append(
      f'these weights are of a backbone alone; left as initialised:'
      f' {", ".join(parts)}'
    )
  for name in filter(CLASSIFIER.search, shapes.keys() - absent):
    if note := _other_classifier(state_dict.get(name), shapes[name]):
      notes.append(f'{name} left as initialised: {note}')
      state_dict.pop(name, None)
      absent.add(name)
  wanted = shapes.keys() - absent
  _check_names(state_dict, wanted, shapes, config)
  for name in wanted:
    leaf = leaves[paths[name]]
    leaves[paths[name]] = from_torch(name, state_dict[name], leaf)
  return Imported(traverse_util.unflatten_dict(leaves), tuple(notes))


def _absent_by_right(state_dict, shapes: Collection[str]) -> set[str]:
  """Names that the weights of a backbone alone need not have.

  The local branch's fourth stage starts as a copy of the backbone's, which is
  put into `state_dict`.
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
  return all(name.startswith('base.') for name in state_dict)


def _other_classifier(given, shape: tuple[int, ...]) -> str:
  """Why a classifier of `shape` cannot have the `given` weights, or ''.

  Only the number of identities, the last but one, may differ.
  """
  if given is None:
    return 'it is not in the weights'
  given = np.shape(given)
  if len(given) == len(shape) and given[-1] == shape[-1]:
    if given[-2] != shape[-2]:
      return f'{given[-2]} identities in the weights, {shape[-2]} here'
  return ''


def to_state_dict(variables: Mapping) -> dict[str, np.ndarray]:
  """Variables as a state dict; `import_state_dict` takes it back unchanged.

  With the counters of batches that PyTorch's normalisations hold (0).
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
  """PyTorch's name of every variable."""
  shared = {path[1:3] for path in paths if path[3:4] == ('bn1',)}
  return {torch_name(path, path[1:3] in shared): path for path in sorted(paths)}


def torch_name(path: Path, shared: bool = False) -> str:
  """PyTorch's name of a variable.

  The released APNet code counts its attention from the stem, so that the one
  after stage 1 is `att2`. What it does not have (levels with an attention of
  their own for each part) is named in its manner.

  Args:
    path: collection, modules and leaf.
    shared: whether it is part of a split attention of that code.
  """
  _, top, *modules, leaf = path
  name = [top, *modules, LEAVES[leaf]]
  if site := re.fullmatch(r'att(\d)', top):
    kind, level = re.fullmatch(r'(level|norm)(\d)', modules[0]).groups()
    rest = modules[1:]
    number, deep = int(site[1]) + 1, 's' * (int(level) - 1)
    if kind == 'norm':
      bn = {'2': 'BN', '3': 'BN_'}[level]
      name = [f'{bn}{number}', 'bottleneck2']
    elif shared:
      name = [f'att_{deep}{number}', *rest]
    elif rest[0] in ('fc1', 'fc2'):
      fc = {'fc1': '0', 'fc2': '2'}[rest[0]]
      name = [f'att{number}', *_own_level(level), 'fc', fc]
    else:  # RGA's code has no attention after the stem
      name = [f'rga_att{site[1]}', *_own_level(level), *rest]
    name.append(LEAVES[leaf])
  return '.'.join(name)


def _own_level(level: str) -> list[str]:
  return [] if level == '1' else [f'level{level}']


def _is_convolution(name: str) -> bool:
  """Whether PyTorch has a 1x1 convolution where we have a matrix."""
  return bool(re.search(r'_spatial\.|^att_s|\.se\.', name))


def torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """PyTorch's shape of a variable of shape `shape`."""
  match shape:
    case (height, width, inputs, outputs):
      return outputs, inputs, height, width
    case (1, inputs, outputs):
      one = (1, 1) if _is_convolution(name) else ()
      return outputs, inputs, *one
    case (parts, inputs, outputs):
      return parts, outputs, inputs
    case (inputs, outputs) if name.endswith('.bias'):
      return (outputs,) if inputs == 1 else (inputs, outputs)
    case (inputs, outputs):
      return outputs, inputs
  return shape


def to_torch(name: str, value: np.ndarray) -> np.ndarray:
  """A variable in PyTorch's layout."""
  shape = torch_shape(name, value.shape)
  if value.ndim == 4:
    value = value.transpose(3, 2, 0, 1)
  elif not name.endswith('.bias') and value.ndim > 1:
    value = value.swapaxes(-1, -2)
  return np.ascontiguousarray(value.reshape(shape))


def from_torch(name: str, value: np.ndarray, leaf) -> jax.Array:
  """The inverse of `to_torch`, with the shape and type of `leaf`."""
  value = np.asarray(value)
  shape = leaf.shape
  if len(shape) == 4:
    value = value.transpose(2, 3, 1, 0)
  elif not name.endswith('.bias') and len(shape) > 1:
    value = value.reshape(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2)
  # A copy: jnp.asarray may share the caller's memory.
  return jnp.array(value.reshape(shape), leaf.dtype)


def _check_names(state_dict, wanted, shapes, config) -> None:
  """Raises one ValueError for all names that do not fit."""
  problems = {
    'missing': wanted - state_dict.keys(),
    'unexpected': state_dict.keys() - shapes.keys(),
    'misshapen': [
      f'{name}: {np.shape(state_dict[name])} given, {shapes[name]} expected'
      for name in wanted & state_dict.keys()
      if np.shape(state_dict[name]) != shapes[name]
    ],
  }
  if not any(problems.values()):
    return
  network = ', '.join(f'{field}={config[field]!r}' for field in DESCRIBED)
  lines = [f'the weights are not of this network (config.model: {network}):']
  for kind, names in problems.items():
    if names:
      lines.append(f'  {len(names)} {kind}:')
      lines += [f'    {name}' for name in sorted(names)[:SHOWN]]
      if len(names) > SHOWN:
        lines.append(f'    and {len(names) - SHOWN} more')
  if any(SPATIAL.search(name) for name in problems['misshapen']):
    lines.append(
      '  Spatial attention (gg_spatial) holds twice the number of positions of'
      ' a part: it is tied to the image size that it was made for'
      ' (config.data.image_size, or image_size=).'
    )
  raise UserError('\n'.join(lines))


def _image_size(state_dict: Mapping[str, np.ndarray], config):
  """An image size that fits the weights' spatial attention, if they have one.

  What follows stage 1 holds the number of positions there, height / 4 times
  width / 4: that of images which are 16 wide and as many pixels high.
  """
  if not (config.attention == 'spatial' and has_pyramids(config)):
    return 96, 96  # enough for every backbone
  kernel = state_dict.get('rga_att1.gg_spatial.0.weight')
  if kernel is not None and config.backbone != 'inception_v3':
    return np.shape(kernel)[1] // 2, 16
  if any(SPATIAL.search(k) for k in state_dict) or _is_backbone(state_dict):
    raise UserError(
      "config.model.attention='spatial' is tied to the size of the images,"
      ' which these weights do not tell: give image_size=(height, width).'
    )
  return 256, 128  # of another network, as the report of names will say


def _fill(variables: Mapping, model, image_size, seed: int) -> Mapping:
  """Initialises the leaves that are shapes only."""
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
