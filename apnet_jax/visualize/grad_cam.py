"""Grad-CAM after each level of a pyramid, and the learned attention.

Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization, ICCV 2017. With a map X of channels k and a target
y, such as the logit of an identity:

  alpha_k = mean over positions of dy/dX_k
  heat    = relu(sum over k of alpha_k X_k)

X is the map after a stage of the backbone (called level 0 here) or after a
level of the pyramid that follows. The gradient includes all that comes after X,
also the attention of later levels.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from functools import partial

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp

from apnet_jax.models.apnet import APNet
from apnet_jax.models.heads import ReidOutput
from apnet_jax.models.normalization import normalize
from apnet_jax.models.pyramid import AttentionPyramid, parts_of_level


@struct.dataclass
class LevelMaps:
  """The maps of a batch of images at one level of one site.

  Attributes:
    level: level of the pyramid; 0 is the map before it, after the stage.
    heat: Grad-CAM, float32 [batch, height, width], not negative; all 0 where no
      position raises the target.
    attention: factor by which the level scales the activity at each position,
      float32 [batch, height, width]; None for level 0. See `attention_map`.
    weights: attention of each channel, float32 [batch, channels]; None for
      level 0 and for spatial attention.
    parts: mean attention of each part, float32 [batch, parts]; None for level
      0. The parts are groups of channels or of rows.
  """

  level: int = struct.field(pytree_node=False)
  heat: jax.Array
  attention: jax.Array | None = None
  weights: jax.Array | None = None
  parts: jax.Array | None = None


def sites_of(model: APNet) -> tuple[int, ...]:
  """Returns the stages of a network that have a pyramid; else all stages.

  Args:
    model: network made by `create_model`.
  """
  if model.pyramid:
    return model.sites
  return tuple(range(1, model.backbone().num_stages + 1))


def levels_of(model: APNet) -> tuple[int, ...]:
  """Returns the levels whose maps `explain` returns, in their order.

  Args:
    model: network made by `create_model`.

  Returns:
    0, for the map after the stage, and the levels of the pyramid as applied.
  """
  if not model.pyramid:
    return (0,)
  pyramid = model.pyramid()
  levels = range(1, pyramid.levels + 1)
  return (0, *(reversed(levels) if pyramid.fine_to_coarse else levels))


def explain(
  model: APNet,
  variables: Mapping,
  images: jax.Array,
  target: Callable[[ReidOutput], jax.Array],
  sites: Iterable[int],
) -> tuple[dict[int, list[LevelMaps]], ReidOutput]:
  """Computes the maps of every level of some sites.

  Args:
    model: network made by `create_model`.
    variables: its 'params' and 'batch_stats'.
    images: uint8 [batch, height, width, 3].
    target: function of the outputs of the network, whose sum is explained.
    sites: stages to look at, each a stage of the backbone.

  Returns:
    maps: maps of each level by site, in the order of `levels_of`.
    output: outputs of the network.
  """
  model, sites = _level_by_level(model), frozenset(sites)

  def forward(shifts):
    seen, scores = {}, {}
    with nn.intercept_methods(_watch(sites, shifts, seen, scores)):
      output = model.apply(variables, normalize(images), train=False)
    return target(output).sum(), (seen, scores, output)

  # The gradient with respect to a zero that is added to a map is the gradient
  # with respect to the map.
  places = [
    (site, level) for site in sorted(sites) for level in levels_of(model)
  ]
  _, (shapes, *_) = jax.eval_shape(forward, dict.fromkeys(places, 0.0))
  zeros = {place: jnp.zeros(x.shape, x.dtype) for place, x in shapes.items()}
  gradients, (seen, scores, output) = jax.grad(forward, has_aux=True)(zeros)
  maps: dict[int, list[LevelMaps]] = {site: [] for site in sorted(sites)}
  for site, level in places:
    x = seen[site, level]
    found = LevelMaps(level, grad_cam(x, gradients[site, level]))
    if model.pyramid and level:
      before = seen[site, maps[site][-1].level]  # the map that it multiplies
      pyramid = model.pyramid()
      parts = parts_of_level(level, pyramid.radix, pyramid.stacked)
      learned = _attention(before, scores[site, level], parts)
      found = dataclasses.replace(found, **learned)
    maps[site].append(found)
  return maps, output


def _level_by_level(model: APNet) -> APNet:
  """Returns the same network, whose pyramids compute the map of each level."""
  if not model.pyramid:
    return model
  return model.clone(pyramid=partial(model.pyramid, level_by_level=True))


def _watch(
  sites: frozenset[int], shifts: Mapping, seen: dict, scores: dict
) -> Callable:
  """Returns an interceptor of methods that records maps and shifts them.

  Args:
    sites: stages to look at.
    shifts: array that is added to the map of each (site, level).
    seen: dict to record the map of each (site, level) in.
    scores: dict to record the attention of each (site, level) in.
  """

  def record(place, x):
    seen[place] = x + jnp.asarray(shifts[place], x.dtype)
    return seen[place]

  def intercept(next_function, args, kwargs, context):
    result = next_function(*args, **kwargs)
    module, method = context.module, context.method_name
    if module.path == ('base',) and method == '__call__':
      _, stage, _ = args
      return record((stage, 0), result) if stage in sites else result
    if isinstance(module, AttentionPyramid) and method == 'level_output':
      _, level, attention = args
      site = int(module.name.removeprefix('att'))
      if site in sites:
        scores[site, level] = attention
        return record((site, level), result)
    return result

  return intercept


def grad_cam(x: jax.Array, gradient: jax.Array) -> jax.Array:
  """Returns the Grad-CAM of a map, Eq. (1) and (2) of Selvaraju et al.

  Args:
    x: map [batch, height, width, channels].
    gradient: gradient of the target with respect to the map.

  Returns:
    float32 [batch, height, width].
  """
  alpha = gradient.mean((1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
  heat = jnp.einsum(
    'bhwc,bc->bhw',
    x.astype(alpha.dtype),
    alpha,
    precision=jax.lax.Precision.HIGHEST,
  )
  return nn.relu(heat)


def attention_map(x: jax.Array, attention: jax.Array) -> jax.Array:
  """Returns the factor by which attention scales the activity at a position.

  The activity is the sum of the absolute values of all channels (Zagoruyko and
  Komodakis, Paying More Attention to Attention, ICLR 2017). For spatial
  attention the factor is the attention itself. For channel attention it is the
  average of the channels' weights by their activity at the position; where all
  channels are 0, it is their plain average.

  Args:
    x: map that the attention multiplies, [batch, height, width, channels].
    attention: attention that broadcasts against `x`.

  Returns:
    float32 [batch, height, width].
  """
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  activity, attention = jnp.abs(x.astype(dtype)), attention.astype(dtype)
  total = activity.sum(-1)
  scaled = (activity * attention).sum(-1)
  plain = jnp.broadcast_to(attention.mean(-1), total.shape)
  return jnp.where(total > 0, scaled / jnp.where(total > 0, total, 1), plain)


def _attention(x: jax.Array, scores: jax.Array, parts: int) -> dict:
  """Returns the fields of `LevelMaps` that describe the learned attention."""
  of_channels = scores.shape[-1] > 1
  flat = scores.reshape(len(scores), -1).astype(jnp.float32)
  return {
    'attention': attention_map(x, scores),
    'weights': flat if of_channels else None,
    'parts': flat.reshape(len(flat), parts, -1).mean(-1),
  }


# Targets


def identity_logit(output: ReidOutput, labels: jax.Array) -> jax.Array:
  """Returns the logit of one training identity for each image.

  Args:
    output: outputs of the network.
    labels: int [batch]; -1 stands for the identity with the largest logit.

  Returns:
    float [batch].
  """
  labels = jnp.where(labels < 0, output.logits.argmax(-1), labels)
  return jnp.take_along_axis(output.logits, labels[:, None], 1)[:, 0]


def pair_similarity(output: ReidOutput, feature: str) -> jax.Array:
  """Returns the cosine similarity of the first to the second half of a batch.

  Args:
    output: outputs of the network for images a_1, .., a_n, b_1, .., b_n.
    feature: name of the output that is compared, as `config.eval.feature`.

  Returns:
    float [n].
  """
  a, b = jnp.split(unit(getattr(output, feature)), 2)
  return (a * b).sum(-1)


def unit(x: jax.Array) -> jax.Array:
  """Returns vectors [..., features] divided by their lengths."""
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def make_attend_pairs(
  model: APNet, feature: str = 'embedding'
) -> Callable[[Mapping, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """Makes a function that shows why pairs of images are similar.

  It computes Grad-CAM of their cosine similarity after the last level at the
  last site, without mirror images.

  Args:
    model: network made by `create_model`.
    feature: name of the output that is compared, as `config.eval.feature`.

  Returns:
    `attend_pairs(variables, a, b)`: from images uint8 [pairs, height, width, 3]
    to their heat maps, each float32 [pairs, height, width] in 0..1. It is
    compiled for each number of pairs. A map whose values are all 0 says that no
    region raises the similarity.
  """
  site = sites_of(model)[-1]

  @jax.jit
  def attend_pairs(variables, a, b):
    images = jnp.concatenate([a, b])
    target = partial(pair_similarity, feature=feature)
    maps, _ = explain(model, variables, images, target, [site])
    return jnp.split(upsample(maps[site][-1].heat, a.shape[1:3]), 2)

  return attend_pairs


def upsample(heat: jax.Array, image_size: tuple[int, int]) -> jax.Array:
  """Resizes heat maps bilinearly to the size of the images, and scales them.

  Args:
    heat: [batch, height, width], not negative.
    image_size: height and width in pixels.

  Returns:
    float32 [batch, image height, image width]; the maximum of each map is 1, or
    0 if the map is 0.
  """
  heat = jax.image.resize(heat, (len(heat), *image_size), 'linear')
  peak = heat.max((1, 2), keepdims=True)
  return (heat / jnp.where(peak > 0, peak, 1)).astype(jnp.float32)
