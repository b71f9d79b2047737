"""Compares two result cards, or two images.

  python -m apnet_jax compare A.json B.json
  python -m apnet_jax compare --ckpt=runs/market A.jpg B.jpg

Two cards become a table that says whether a difference may be chance.

The interval is that of the difference B - A if the queries were drawn again
(paired bootstrap: both cards are averaged over the same queries each time). It
says nothing of another training run, whose seed changes more than that.

Cards that were not made under the same rules, or not of the same images, are
refused, unless --unlike says that this is meant.

Of two images it says whether they show one person, by the threshold that
`eval.py --choose_threshold` has stored with the network, or --threshold.
"""

from collections.abc import Callable
import sys

from absl import flags

from apnet_jax import cli
from apnet_jax.errors import UserError
from apnet_jax.retrieval import comparison, trained_network


def compare_files(first: str, second: str, unlike_allowed: bool, **bootstrap):
  """Prints the comparison of two files of cards; see `compare`.

  Raises:
    UserError: they are no cards, or unlike.
  """
  a, b = comparison.read_cards(first), comparison.read_cards(second)
  pairs = [(name, name) for name in a if name in b]
  if len(a) == len(b) == 1:
    pairs = [(*a, *b)]
  if not pairs:
    raise UserError(f'no data set in common: {", ".join(a)} | {", ".join(b)}.')
  print(f'A: {first}\nB: {second}')
  alone = sorted((a.keys() ^ b.keys()) - {name for p in pairs for name in p})
  if alone:
    print(f'In one file only: {", ".join(alone)}')
  for name, other in pairs:
    print(f'\n{name}' + (f' | {other}' if other != name else ''))
    found = comparison.unlike(a[name], b[other])
    if found and not unlike_allowed:
      raise UserError(
        'these figures cannot be compared; A | B were not made alike:\n'
        + '\n'.join(found)
        + '\n--unlike compares them all the same.'
      )
    if found:
      print('NOT MADE ALIKE, A | B:', *found, sep='\n')
    noted = list(comparison.differences(a[name], b[other], comparison.NOTED))
    if noted:
      print('A | B:', *noted, sep='\n')
    print(*comparison.compare(a[name], b[other], **bootstrap), sep='\n')


def compare_images(
  network: trained_network.Network, first: str, second: str
) -> None:
  """Prints how alike two images are, and whether they show one person."""
  one, two = network.embed([first, second])
  similarity = float(one @ two)
  print(network.about, file=sys.stderr)
  verdict = trained_network.verdict(similarity, network.threshold)
  print(f'{similarity:.4f}  {verdict}')


def command() -> Callable:
  """Defines the flags of the command; returns its main function."""
  ckpt, which, threshold = cli.define_network()
  unlike_allowed = flags.DEFINE_bool(
    'unlike', False, 'Compares cards of unlike rules or images all the same.'
  )
  level = flags.DEFINE_float(
    'level', 0.95, 'Of confidence of the interval.', 0.5, 0.9999
  )
  samples = flags.DEFINE_integer(
    'samples', 10_000, 'How often the queries are drawn.', 100
  )
  seed = flags.DEFINE_integer('seed', 0, 'For drawing them.', 0)

  def main(argv):
    if len(argv) != 3:
      raise UserError(f'compare takes two files; {len(argv) - 1} are given.')
    if all(name.lower().endswith('.json') for name in argv[1:]):
      compare_files(
        *argv[1:],
        unlike_allowed.value,
        level=level.value,
        samples=samples.value,
        seed=seed.value,
      )
      return
    if not ckpt.value:
      raise UserError(
        'to compare images give --ckpt, a workdir of train.py; result cards end'
        ' in .json.'
      )
    cli.quieten()
    network = trained_network.open_network(
      ckpt.value, which.value, threshold.value
    )
    compare_images(network, *argv[1:])

  return main
