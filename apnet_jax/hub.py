"""Files of the Hugging Face Hub (the extra `weights`)."""

from collections.abc import Mapping, Sequence
import os
import re

from apnet_jax.errors import UserError, first_line
from apnet_jax.optional import import_optional

PREFIX = 'hf://'
SOURCE = re.compile(
  r'hf://(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?'
)
NETWORK = 'network.apnet'  # name of a packed network in a repository


def is_source(source) -> bool:
  """Returns whether `source` is a text that names a file of the Hub."""
  return isinstance(source, str) and source.startswith(PREFIX)


def find_network(source: str | os.PathLike) -> str | os.PathLike:
  """Returns the path of a trained network, which is downloaded if needed.

  Args:
    source: a path, which is returned as it is; or `hf://OWNER/NAME` with the
      packed network `NETWORK`. '@REVISION' and '/FILE' may follow.

  Raises:
    UserError: see `download`.
  """
  return download(source, [NETWORK]) if is_source(source) else source


def download(source: str, files: Sequence[str]) -> str:
  """Downloads a file of the Hub, unless it is in the local cache.

  Args:
    source: `hf://OWNER/NAME[@REVISION][/FILE]`.
    files: names to try in this order if `source` names no file.

  Returns:
    The path of the file in the cache.

  Raises:
    UserError: the source has another form, huggingface_hub is not installed, or
      the file cannot be downloaded.
  """
  hub = import_optional('huggingface_hub', 'weights')
  no_such_file = import_optional(
    'huggingface_hub.errors', 'weights'
  ).EntryNotFoundError
  match = SOURCE.fullmatch(source)
  if not match:
    raise UserError(
      f'{source} does not have the form hf://OWNER/NAME[@REVISION][/FILE].'
    )
  for file in [match['file']] if match['file'] else files:
    try:
      return hub.hf_hub_download(
        match['repository'], file, revision=match['revision']
      )
    except no_such_file as error:
      problem = error
    except Exception as error:  # no network, no repository, or no access
      problem = error
      break
  raise UserError(
    f'{source} cannot be downloaded from the Hugging Face Hub:'
    f' {first_line(problem)}'
  ) from problem


def upload(repository: str, files: Mapping[str, str], private: bool) -> str:
  """Uploads files to a repository of the Hub in one commit.

  The repository is made if there is none. The token is that of the command
  `hf auth login`, or $HF_TOKEN.

  Args:
    repository: OWNER/NAME.
    files: paths of local files, by their names in the repository.
    private: whether a new repository is private.

  Returns:
    The address of the repository.

  Raises:
    UserError: huggingface_hub is not installed, or the Hub refuses the files.
  """
  hub = import_optional('huggingface_hub', 'weights')
  operations = [
    hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
    for name, path in files.items()
  ]
  api = hub.HfApi()
  try:
    url = api.create_repo(repository, private=private, exist_ok=True)
    api.create_commit(repository, operations, commit_message='Upload a network')
  except Exception as error:  # no network, no token, or a wrong name
    raise UserError(
      f'{repository} cannot be uploaded to the Hugging Face Hub:'
      f' {first_line(error)}'
    ) from error
  return str(url)
