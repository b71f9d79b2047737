"""What the commands share: set-up, and errors a person can read."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import os
import pathlib
import re
import sys
import traceback

from absl import app, flags, logging
import jax

from apnet_jax import parallel
from apnet_jax.printing import printable

# `--help` shows a flag that is defined here as one of the command's own.
flags.disclaim_key_flags()

ROOT = pathlib.Path(__file__).parents[1]


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Parses flags and runs a command; errors as in `errors_as_messages`."""

  def main_and_finish(argv):
    main(argv)
    parallel.finish()

  with errors_as_messages():
    app.run(main_and_finish, flags_parser=_parse_flags)


@contextlib.contextmanager
def errors_as_messages() -> Iterator[None]:
  """Ends the program as its user can understand.

  A mistake of its user is a message and exit code 2, a loss or a gradient that
  is not finite 3, another process that is lost 4, an interruption 130 or 143. A
  `ValueError` that a library raised is a bug, and keeps its traceback.
  """
  try:
    with parallel.losses_as_errors():
      yield
  except BrokenPipeError:  # whoever read the output has gone, as `head` does
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _leave(1)
  except parallel.ProcessLostError as error:
    _fail(str(error), parallel.LOST)
  except OSError as error:
    _fail(str(error), 2)
  except ValueError as error:
    if _is_ours(error):
      _fail(str(error), 2)
    _fail_as_a_bug()
  except FloatingPointError as error:
    _fail(str(error), 3)
  except KeyboardInterrupt as error:
    what = str(error) or 'interrupted'
    _fail(
      f'{what}; the same command goes on from what was saved',
      getattr(error, 'code', 130),  # of `interruption.Interrupted`
    )
  except Exception:
    _fail_as_a_bug()


def _is_ours(error: Exception) -> bool:
  """Whether this project raised it, and so wrote its message for a person."""
  place = traceback.extract_tb(error.__traceback__)[-1].filename
  place = pathlib.Path(place)
  if not place.is_relative_to(ROOT):
    return False
  # An environment may lie in the project's folder.
  return 'site-packages' not in place.relative_to(ROOT).parts


def _fail(message: str, code: int) -> None:
  print(f'error: {printable(message)}', file=sys.stderr)
  _leave(code)


def _fail_as_a_bug() -> None:
  """With the traceback of what is being handled."""
  if not parallel.several():
    raise
  traceback.print_exc()
  _leave(1)


def _leave(code: int) -> None:
  parallel.leave(code)
  sys.exit(code)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    # Of what a configuration file raises, the message without its traceback.
    message = str(error).strip().splitlines()
    raise ValueError(
      re.sub(r'^\w+: ', '', message[-1])
      if 'Traceback' in str(error)
      else '\n'.join(message)
    ) from error
  except (AttributeError, KeyError) as error:
    # From ml_collections, for an unknown field or section.
    name = re.match(r'\W*(\w*)', str(error))[1]
    names = (argument.split('=')[0] for argument in argv)
    given = [given for given in names if name in given.split('.')]
    raise ValueError(
      f'{", ".join(given) or name}: the configuration has no such field;'
      ' configs/common.py lists them all.'
    ) from error


def no_more_arguments(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise ValueError(f'unexpected arguments: {" ".join(argv[1:])}')


def define_which() -> flags.FlagHolder:
  """The flag that chooses among the checkpoints of a workdir."""
  return flags.DEFINE_enum(
    'which',
    'last',
    ['last', 'best'],
    'Checkpoint: the last, or the best by mAP (which is chosen on the test'
    ' set).',
  )


def define_network() -> tuple[flags.FlagHolder, ...]:
  """The flags of commands that tell whether images are of one person."""
  return (
    flags.DEFINE_string('ckpt', None, 'Workdir of train.py.'),
    define_which(),
    flags.DEFINE_float(
      'threshold',
      None,
      'Cosine similarity from which two images are of one person; default: what'
      ' eval.py --choose_threshold has stored.',
      lower_bound=-1,
      upper_bound=1,
    ),
  )


def define_processes() -> tuple[flags.FlagHolder, ...]:
  """The flags that start a command in several processes, by hand."""
  return (
    flags.DEFINE_string(
      'coordinator_address',
      None,
      'HOST:PORT of process 0, to run in several processes. Not needed on Cloud'
      ' TPU and under SLURM, where they find each other.',
    ),
    flags.DEFINE_integer('num_processes', None, 'Number of all processes.'),
    flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0.'),
  )


def start_processes(*given: flags.FlagHolder) -> None:
  """Joins the other processes of a command, if there are any.

  Only process 0 says something; of the others, errors are heard.

  Args:
    given: the flags of `define_processes`.
  """
  parallel.start(*(flag.value for flag in given))
  if not parallel.is_first():
    os.environ['TQDM_DISABLE'] = '1'  # it is imported later
    # Of the file, not only of Python: libraries in C++ print too.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def quieten() -> None:
  """Silences libraries that log every file they write, or cannot write.

  They raise the error as well, and it is said in a line.
  """
  logging.set_verbosity(logging.FATAL)


def cache_compilation(folder: str) -> None:
  """Keeps compiled programs between runs, unless the folder is ''."""
  if folder:
    path = pathlib.Path(folder).expanduser()
    jax.config.update('jax_compilation_cache_dir', str(path))
