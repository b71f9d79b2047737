"""Attention maps of images, with their concentration and faithfulness."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from functools import partial
import itertools
from typing import NamedTuple

import jax
import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.models.apnet import APNet
from apnet_jax.models.normalization import normalize
from apnet_jax.visualize import concentration, faithfulness, grad_cam

ROAD_BATCH = 32  # images that pass through the network at once
PREDICTED = -1  # stands for the training identity with the largest logit


class Measured(NamedTuple):
  """A map with its figures; a figure is None where it is not defined.

  Attributes:
    values: float32 [height, width].
    entropy: see `concentration.entropy`.
    area: see `concentration.area`.
    attended_fall: fall of the target when the region with the largest values is
      replaced (`faithfulness`).
    random_fall: mean fall when the same region at random places is replaced.
  """

  values: np.ndarray
  entropy: float | None
  area: float | None
  attended_fall: float | None = None
  random_fall: float | None = None

  @property
  def figures(self) -> dict[str, float | None]:
    """The figures by name, without the values."""
    figures = self._asdict()
    del figures['values']
    return figures


@dataclasses.dataclass(frozen=True)
class Level:
  """The maps of one image at a level of a site; see `grad_cam.LevelMaps`.

  Attributes:
    site: stage of the backbone.
    level: level of the pyramid; 0 is the map before it.
    heat: Grad-CAM.
    attention: learned attention; None for level 0.
    weights: attention of each channel, float32 [channels], or None.
    parts: mean attention of each part, float32 [parts], or None.
  """

  site: int
  level: int
  heat: Measured
  attention: Measured | None
  weights: np.ndarray | None
  parts: np.ndarray | None

  @property
  def maps(self) -> dict[str, Measured]:
    """The maps by name."""
    maps = {'Grad-CAM': self.heat, 'attention': self.attention}
    return {name: found for name, found in maps.items() if found}


@dataclasses.dataclass(frozen=True)
class Explained:
  """An image, the target, and the maps that explain it.

  Attributes:
    image: uint8 [height, width, 3].
    value: the target: a logit or a cosine similarity.
    label: training identity of the logit; None for a similarity.
    levels: maps of each level of each site.
  """

  image: np.ndarray
  value: float
  label: int | None
  levels: list[Level]


class Explainer:
  """Explains what a network looks at.

  Args:
    model: network made by `create_model`.
    variables: its variables.
    feature: name of the output that is compared, as `config.eval.feature`.
    site: stage to look at; None for the last that has a pyramid.
    all_sites: whether to look at all stages that have a pyramid.
    levels: levels to look at; none stand for all.
    draws: number of random regions that each image is compared with; 0 leaves
      the faithfulness out.
    seed: seed of the random regions, of the noise, and of the order of equal
      values.

  Raises:
    UserError: the network has no such site or level.
  """

  def __init__(
    self,
    model: APNet,
    variables: Mapping,
    feature: str = 'embedding',
    *,
    site: int | None = None,
    all_sites: bool = False,
    levels: Sequence[int] = (),
    draws: int = 1,
    seed: int = 0,
  ):
    self._sites = _choose_sites(model, site, all_sites)
    self._levels = _choose_levels(model, levels)
    self._variables, self._draws = variables, draws
    self._rng = np.random.default_rng(seed)
    self._explain_label = jax.jit(partial(_explain_label, model, self._sites))
    self._explain_pair = jax.jit(
      partial(_explain_pair, model, feature, self._sites)
    )

    @jax.jit
    def outputs(variables, images):
      output = model.apply(variables, normalize(images), train=False)
      return output.logits, grad_cam.unit(getattr(output, feature))

    self._outputs = outputs

  def explain_identity(
    self, images: np.ndarray, label: int = PREDICTED
  ) -> list[Explained]:
    """Explains the logit of a training identity.

    Args:
      images: uint8 [batch, height, width, 3].
      label: number of the identity; `PREDICTED` for that of the largest logit,
        which may differ between the images.
    """
    maps, logits = jax.device_get(
      self._explain_label(self._variables, images, label)
    )
    labels = logits.argmax(-1) if label == PREDICTED else [label] * len(images)

    def targets(row, replaced):
      return self._run(replaced)[0][:, labels[row]]

    return [
      Explained(
        images[row],
        float(logits[row, labels[row]]),
        int(labels[row]),
        self._measure(
          images[row], maps, row, logits[row, labels[row]], targets
        ),
      )
      for row in range(len(images))
    ]

  def explain_pair(self, a: np.ndarray, b: np.ndarray) -> list[Explained]:
    """Explains the cosine similarity of two images.

    Args:
      a: uint8 [height, width, 3].
      b: another image of this size.

    Returns:
      The explanation of each of the two.
    """
    images = np.stack([a, b])
    maps, units = jax.device_get(self._explain_pair(self._variables, images))
    value = float(units[0] @ units[1])

    def targets(row, replaced):
      return self._run(replaced)[1] @ units[1 - row]

    return [
      Explained(
        image, value, None, self._measure(image, maps, row, value, targets)
      )
      for row, image in enumerate(images)
    ]

  def _measure(self, image, maps, row, value, targets) -> list[Level]:
    """Returns the maps of one image, with their figures.

    Args:
      image: uint8 [height, width, 3].
      maps: maps of the batch, as `grad_cam.explain` returns them.
      row: row of the image in the batch.
      value: the target.
      targets: `targets(row, images)` computes it for changed images.
    """
    levels = [
      _level(site, found, row)
      for site, of_site in maps.items()
      for found in of_site
      if found.level in self._levels
    ]
    measured = [found for level in levels for found in level.maps.values()]
    if self._draws:
      deepest = sum(len(level.maps) for level in levels[:-1])
      falls = self._falls(
        image, measured, deepest, partial(targets, row), value
      )
      measured = [
        found._replace(attended_fall=attended, random_fall=random)
        for found, (attended, random) in zip(measured, falls)
      ]
    remaining = iter(measured)
    return [
      dataclasses.replace(
        level,
        heat=next(remaining),
        attention=next(remaining) if level.attention else None,
      )
      for level in levels
    ]

  def _falls(self, image, measured, deepest, targets, value) -> Iterator[tuple]:
    """Yields how far the target falls with each map's region, and by chance.

    The random regions have the shape of the region of the map at the place
    `deepest`. They are the same for all maps.
    """
    regions = [
      faithfulness.attended_region(x.values, image.shape[:2], self._rng)
      for x in measured
    ]
    found = [region for region in regions if region is not None]
    if not found:
      return itertools.repeat((None, None), len(measured))
    shape = found[-1] if regions[deepest] is None else regions[deepest]
    moved = [faithfulness.move(shape, self._rng) for _ in range(self._draws)]
    replaced = [
      faithfulness.replace(image, region, self._rng)
      for region in (*found, *moved)
    ]
    falls = value - targets(np.stack(replaced))
    random = float(falls[len(found) :].mean())
    attended = iter(falls.tolist())
    return iter(
      [
        (None, None) if region is None else (next(attended), random)
        for region in regions
      ]
    )

  def _run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits and unit features of float images, a batch at a time."""
    size = min(len(images), ROAD_BATCH)
    batches = []
    for start in range(0, len(images), size):
      padded = np.zeros((size, *images.shape[1:]), images.dtype)
      some = images[start : start + size]
      padded[: len(some)] = some
      batches.append(jax.device_get(self._outputs(self._variables, padded)))
    logits, units = map(np.concatenate, zip(*batches))
    return logits[: len(images)], units[: len(images)]


def _explain_label(model, sites, variables, images, label):
  """Returns the maps for the logit of an identity, and all logits."""
  labels = np.zeros(len(images), int) + label
  target = partial(grad_cam.identity_logit, labels=labels)
  maps, output = grad_cam.explain(model, variables, images, target, sites)
  return maps, output.logits


def _explain_pair(model, feature, sites, variables, images):
  """Returns the maps for the similarity of two images, and unit features."""
  target = partial(grad_cam.pair_similarity, feature=feature)
  maps, output = grad_cam.explain(model, variables, images, target, sites)
  return maps, grad_cam.unit(getattr(output, feature))


def _level(site: int, found: grad_cam.LevelMaps, row: int) -> Level:
  """Returns the maps of one image of a batch, with their concentration."""

  def of_row(values):
    return None if values is None else values[row]

  def measure(values):
    return Measured(
      values, concentration.entropy(values), concentration.area(values)
    )

  attention = of_row(found.attention)
  return Level(
    site,
    found.level,
    measure(found.heat[row]),
    None if attention is None else measure(attention),
    of_row(found.weights),
    of_row(found.parts),
  )


def _choose_sites(
  model: APNet, site: int | None, all_sites: bool
) -> tuple[int, ...]:
  """Returns the sites to look at; see `Explainer`."""
  sites = grad_cam.sites_of(model)
  if all_sites:
    return sites
  if site is None:
    return sites[-1:]
  if site not in sites:
    what = 'pyramids at the sites' if model.pyramid else 'the stages'
    raise UserError(
      f'there is no site {site}: this network has {what}'
      f' {", ".join(map(str, sites))}.'
    )
  return (site,)


def _choose_levels(model: APNet, levels: Sequence[int]) -> tuple[int, ...]:
  """Returns the levels to look at; see `Explainer`."""
  known = grad_cam.levels_of(model)
  if unknown := sorted(set(levels) - set(known)):
    raise UserError(
      f'there is no level {unknown[0]}: this network has the levels'
      f' {", ".join(map(str, sorted(known)))}; 0 is the map after the stage,'
      ' before its pyramid.'
    )
  return tuple(level for level in known if not levels or level in levels)


# Tables


def map_name(level: Level, name: str) -> str:
  """Returns the name of a map in tables, as 'site 4, level 1, Grad-CAM'."""
  return f'site {level.site}, level {level.level}, {name}'


class Summary:
  """Means of the figures of each map over images.

  Attributes:
    images: number of images.
  """

  def __init__(self):
    self.images = 0
    self._figures = {}

  def add(self, explained: Explained) -> None:
    """Counts the maps of an image."""
    self.images += 1
    for level in explained.levels:
      for name, found in level.maps.items():
        rows = self._figures.setdefault(map_name(level, name), [])
        rows.append(found.figures)

  def means(self) -> dict[str, dict[str, float | int | None]]:
    """Returns the means by the names of the maps.

    Each is a mean over the images where the figure is defined. `defined` counts
    the images whose map is not 0. `faithful` is the share of images whose
    target falls further by the region of the map than by the random regions,
    with equal falls as half.
    """
    return {name: _means(rows) for name, rows in self._figures.items()}


def _means(rows: list[dict]) -> dict:
  """Returns the mean of each figure, and the counts that `means` describes."""
  means = {name: _mean([row[name] for row in rows]) for name in rows[0]}
  falls = [
    (row['attended_fall'], row['random_fall'])
    for row in rows
    if row['attended_fall'] is not None
  ]
  faithful = [(np.sign(a - r) + 1) / 2 for a, r in falls]
  defined = sum(row['area'] is not None for row in rows)
  return {**means, 'faithful': _mean(faithful), 'defined': defined}


def _mean(values: list) -> float | None:
  known = [value for value in values if value is not None]
  return round(float(np.mean(known)), 6) if known else None


COLUMNS = {
  'entropy': 'entropy',
  'area': 'area',
  'attended_fall': 'attended',
  'random_fall': 'random',
  'faithful': 'faithful',
  'defined': 'images',
}
SHARES = ('area', 'faithful')  # in percent in tables and pictures


def table(rows: Mapping[str, Mapping]) -> list[str]:
  """Returns the lines of a table of figures.

  Args:
    rows: figures by name of the map, as `Summary.means` returns them.
  """
  shown = [
    name for name in COLUMNS if any(name in row for row in rows.values())
  ]
  width = max(map(len, rows))
  head = ''.join(f'{COLUMNS[name]:>10}' for name in shown)
  lines = [' ' * width + head]
  for title, row in rows.items():
    cells = ''.join(_cell(name, row.get(name)) for name in shown)
    lines.append(f'{title:{width}}{cells}')
  return lines


def _cell(name: str, value: float | int | None) -> str:
  if value is None:
    return f'{"-":>10}'
  if name in SHARES:
    return f'{value:10.1%}'
  return f'{value:10,}' if isinstance(value, int) else f'{value:10.3f}'
