"""Estimates what a training run needs of an accelerator that is not there."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import io
import pathlib

import ml_collections

from apnet_jax.accelerators import program_cost, topology
from apnet_jax.accelerators.fit import Fit
from apnet_jax.accelerators.targets import find_target
from apnet_jax.commands.fits import watching
from apnet_jax.errors import UserError
from apnet_jax.training.programs import total_steps
from data import datasets, listing


@dataclasses.dataclass(frozen=True)
class Cost:
  """Memory and time that a training run needs on each device of a machine.

  Attributes:
    fits: whether the memory of a device is enough.
    memory: bytes of a device in use; None if the program does not compile.
    hours: time of the machine, by the roofline of the training steps; None if
      it is unknown.
    least: whether no run can take fewer hours; see
      `program_cost.is_upper_bound`.
  """

  fits: bool
  memory: int | None
  hours: float | None
  least: bool = True

  def __str__(self):
    memory = f'{self.memory / 1e9:.1f} GB' if self.memory else 'not compiled'
    hours = '-'
    if self.hours is not None:
      hours = f'{say_least(self.least)} {self.hours:.2f} h'
    return f'{memory}{"" if self.fits else ", does not fit"}; {hours}'


def say_least(least: bool) -> str:
  """Returns the words before a number of hours: a bound, or an estimate."""
  return 'at least' if least else 'about'


def training_size(config: ml_collections.ConfigDict) -> tuple[int, int]:
  """Returns the numbers of identities and of batches in an epoch.

  Without the images, they are estimated from the published counts.

  Args:
    config: the whole configuration.

  Raises:
    UserError: there are neither images nor published counts.
  """
  parts = datasets.single_sets(config.data)
  if all(pathlib.Path(part.dir).exists() for part in parts.values()):
    with contextlib.redirect_stdout(io.StringIO()):
      listings = listing.read_to_train(config)
    return listing.training_size(listings, config.train)
  published = [datasets.find(name).published.get('train') for name in parts]
  if None in published:
    raise UserError(
      f'config.data.dir={config.data.dir!r} is missing, and the counts of'
      f' {config.data.name} are not published: the time is unknown.'
    )
  images = sum(counts.images for counts in published)
  identities = sum(counts.identities for counts in published)
  return identities, max(1, images // (config.train.P * config.train.K))


def compiler(device: str) -> Callable[[ml_collections.ConfigDict], Cost]:
  """Returns a function that compiles a configuration for a device.

  Args:
    device: name of the machine, as for `python -m apnet_jax fits`.

  Raises:
    UserError: there is no such machine, or its compiler is not installed.
  """
  target = find_target(device)
  topology.use_no_device()
  devices = topology.open_compiler(target)

  def cost(config: ml_collections.ConfigDict) -> Cost:
    identities, steps_per_epoch = training_size(config)
    fit = Fit(config, identities, target, devices, watching)
    return cost_of(fit, total_steps(config, steps_per_epoch))

  return cost


def cost_of(fit: Fit, steps: int) -> Cost:
  """Returns what a run of some steps needs."""
  found = fit.measure('train')
  if not found['memory']:
    return Cost(found['fits'], None, None)
  line = found['roofline']
  seconds = steps * found['batch'] / line['images_per_second']
  least = program_cost.is_upper_bound(found['bytes_from'], line['bound'])
  return Cost(found['fits'], found['memory']['total'], seconds / 3600, least)


def total_hours(costs: Sequence[Cost]) -> float:
  """Returns the sum of the hours that are known."""
  return sum(cost.hours or 0 for cost in costs)
