"""Files of the Hugging Face Hub (the extra `weights`)."""

from collections.abc import Mapping, Sequence
import logging
import os
import re
from typing import TypeGuard
from urllib import parse

from apnet_jax.errors import UserError, first_line
from apnet_jax.optional import import_optional
from apnet_jax.printing import quiet_loggers

PREFIX = 'hf://'
SOURCE = re.compile(
  r'hf://(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?'
)
NETWORK = 'network.apnet'  # name of a packed network in a repository


def is_source(source: object) -> TypeGuard[str]:
  """Returns whether `source` is a text that names a file of the Hub."""
  return isinstance(source, str) and source.startswith(PREFIX)


def find_network(source: str | os.PathLike) -> str | os.PathLike:
  """Returns the path of a trained network, which is downloaded if needed.

  Args:
    source: a path, in which `~` is the home folder; or `hf://OWNER/NAME` with
      the packed network `NETWORK`. '@REVISION' and '/FILE' may follow; see
      `download`.

  Raises:
    UserError: see `download`.
  """
  if is_source(source):
    return download(source, [NETWORK])
  return os.path.expanduser(source)


def download(source: str, files: Sequence[str]) -> str:
  """Downloads a file of the Hub, unless it is in the local cache.

  Args:
    source: `hf://OWNER/NAME[@REVISION][/FILE]`. A slash in the revision is
      written as %2F.
    files: names to try in this order if `source` names no file.

  Returns:
    The path of the file in the cache.

  Raises:
    UserError: the source has another form, huggingface_hub is not installed, or
      the file cannot be downloaded.
  """
  hub = import_optional('huggingface_hub', 'weights')
  errors = import_optional('huggingface_hub.errors', 'weights')
  # It is imported here, which sets the level that is changed below.
  download_file = hub.hf_hub_download
  match = SOURCE.fullmatch(source)
  if not match:
    raise UserError(
      f'{source} does not have the form hf://OWNER/NAME[@REVISION][/FILE].'
    )
  revision = match['revision'] and parse.unquote(match['revision'])
  for file in [match['file']] if match['file'] else files:
    try:
      # It logs each attempt to reach the Hub.
      with quiet_loggers('huggingface_hub', least=logging.CRITICAL):
        return download_file(match['repository'], file, revision=revision)
    except errors.EntryNotFoundError as error:
      problem = error
    except Exception as error:  # no network, no repository, or no access
      problem = error
      break
  raise UserError(
    f'{source} cannot be downloaded from the Hugging Face Hub:'
    f' {_reason(errors, problem, match, files)}'
  ) from problem


def _reason(errors, problem: Exception, match: re.Match, files) -> str:
  """Returns in a sentence why a file could not be downloaded.

  Messages of huggingface_hub have several lines, of which the first may be a
  code of HTTP, or longer than a line.

  Args:
    errors: the module with its errors.
    problem: one of them, or any other.
    match: `SOURCE` in the source.
    files: names that were tried if the source names no file.
  """
  repository, tried = match['repository'], match['file'] or ' or '.join(files)
  for kind, reason in (
    (
      errors.GatedRepoError,  # before its base class
      f'{repository} is open only to those who have accepted its terms on the'
      ' Hub, and are logged in (`hf auth login`).',
    ),
    (
      errors.RepositoryNotFoundError,
      f'there is no repository {repository}, or it is private and you are not'
      ' logged in (`hf auth login`).',
    ),
    (
      errors.RevisionNotFoundError,
      f'{repository} has no revision {match["revision"]}. (A slash in a'
      ' revision is written as %2F.)',
    ),
    (
      errors.LocalEntryNotFoundError,  # before its base class
      f'the Hub did not answer for {repository}, and {tried} is not in the'
      ' local cache. Check the name and the connection to the internet.',
    ),
    (errors.EntryNotFoundError, f'{repository} has no file {tried}.'),
  ):
    if isinstance(problem, kind):
      return reason
  return first_line(problem)


def upload(repository: str, files: Mapping[str, str], private: bool) -> str:
  """Uploads files to a repository of the Hub in one commit.

  The repository is made if there is none. The token is that of the command
  `hf auth login`, or $HF_TOKEN.

  Args:
    repository: OWNER/NAME.
    files: paths of local files, by their names in the repository.
    private: makes a new repository private, and refuses one that is public. If
      False, a new one is public; one that exists stays as it is.

  Returns:
    The address of the repository.

  Raises:
    UserError: huggingface_hub is not installed, the Hub refuses the files, or
      the repository is public and should be private.
  """
  hub = import_optional('huggingface_hub', 'weights')
  operations = [
    hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
    for name, path in files.items()
  ]
  api = hub.HfApi()
  try:
    url = api.create_repo(repository, private=private, exist_ok=True)
    # One that exists stays as public as it is.
    if private and not api.repo_info(repository).private:
      raise UserError(
        'it is public. Give --public to publish there, or another --repository.'
      )
    api.create_commit(repository, operations, commit_message='Upload a network')
  except Exception as error:  # no network, no token, or a wrong name
    raise UserError(
      f'{repository} cannot be uploaded to the Hugging Face Hub:'
      f' {first_line(error)}'
    ) from error
  return str(url)
