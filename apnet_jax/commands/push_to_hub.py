"""Publishes a trained network on the Hugging Face Hub.

  python -m apnet_jax push-to-hub --ckpt=runs/market --repository=OWNER/NAME

The repository gets the packed network (see the command pack) and its model
card as README.md. It is private unless --public is given: look at the card
first, and at the terms of the data. Without --public, a repository that is
public already is refused. All commands then load the network by
--ckpt=hf://OWNER/NAME.

This needs huggingface_hub (pip install '.[weights]') and a token: `hf auth
login`, or $HF_TOKEN.
"""

from collections.abc import Callable
import os
import tempfile

from absl import flags

from apnet_jax import cli, hub
from apnet_jax.inference import model_card
from apnet_jax.inference.packing import pack_network


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  ckpt = flags.DEFINE_string('ckpt', None, cli.CKPT_HELP, required=True)
  which = cli.define_which()
  repository = flags.DEFINE_string(
    'repository', None, 'Repository of the Hub, OWNER/NAME.', required=True
  )
  public = flags.DEFINE_bool(
    'public', False, 'Makes a new repository public, or allows one that is.'
  )

  def main(argv):
    cli.no_more_arguments(argv)
    cli.quieten()
    url = push(ckpt.value, which.value, repository.value, not public.value)
    print(f'published at {url}; --ckpt={hub.PREFIX}{repository.value} loads it')

  return main


def push(
  source: str | os.PathLike, which: str, repository: str, private: bool
) -> str:
  """Packs a network and uploads it with its model card.

  Args:
    source: see `hub.find_network`.
    which: checkpoint, 'last' or 'best'.
    repository: see `hub.upload`.
    private: see `hub.upload`.

  Returns:
    The address of the repository.

  Raises:
    UserError: the network cannot be read, or the Hub refuses it.
  """
  with tempfile.TemporaryDirectory() as folder:
    network = os.path.join(folder, hub.NETWORK)
    parts = pack_network(source, network, which)
    card = os.path.join(folder, 'README.md')
    model_card.write(card, parts)
    return hub.upload(
      repository, {hub.NETWORK: network, 'README.md': card}, private
    )
