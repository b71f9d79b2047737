"""Shared parts of all commands: flags, set-up, errors and exit codes."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import gc
import os
import pathlib
import re
import sys
import traceback

from absl import app, flags, logging
import jax
import ml_collections
from ml_collections import config_flags

from apnet_jax import config
from apnet_jax.errors import UserError, causes, first_line
from apnet_jax.parallel import background, processes
from apnet_jax.printing import printable
from apnet_jax.workdir.interruption import Interrupted
from apnet_jax.writing import check_place

CKPT_HELP = (
  'Workdir of train.py, or a file that the command pack wrote, or hf://OWNER/NAME'
  ' of such a file on the Hugging Face Hub.'
)
HELP_FLAGS = {'help', '?', 'helpshort', 'helpfull', 'helpxml'}  # of absl

# `--help` then shows flags defined here as flags of the command itself.
flags.disclaim_key_flags()


def run(main: Callable[[Sequence[str]], None], resumes: bool = False) -> None:
  """Parses the flags and runs a command.

  An error ends the program as `errors_as_messages` describes.

  Args:
    main: the command, a function of the arguments that are left after parsing:
      the program's name and the arguments that are not flags.
    resumes: whether the command goes on from what an earlier call has saved.
  """

  def main_and_finish(argv):
    main(argv)
    processes.wait_for_all()  # e.g. for reports, which the first writes

  # Imports and traces make millions of objects that stay. By default, the
  # collector takes a seventh of the time until the first training step.
  gc.set_threshold(50_000)
  with errors_as_messages(resumes):
    app.run(main_and_finish, flags_parser=_parse_flags)


@contextlib.contextmanager
def errors_as_messages(resumes: bool = False) -> Iterator[None]:
  """Turns an error in a `with` block into a message and an exit code.

  The code is 2 for mistakes of the user, for files that cannot be read or
  written and for a device whose memory is full, 3 for a loss or gradient that
  is not finite, 4 when another process is lost, 130 or 143 after SIGINT or
  SIGTERM. Any other error is a fault of the program, which prints the traceback
  and exits with code 1.

  Args:
    resumes: whether the command goes on from what an earlier call has saved,
      which the message on SIGINT then says. That on `Interrupted` always does.
  """
  try:
    with processes.detecting_lost_processes():
      yield
  except BrokenPipeError:  # the reader of the output has gone, as `head` does
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _exit(1)
  except processes.ProcessLostError as error:
    _fail(str(error), processes.LOST_EXIT_CODE)
  except (UserError, OSError) as error:
    _fail(str(error), 2)
  except FloatingPointError as error:
    _fail(str(error), 3)
  except KeyboardInterrupt as error:
    what = str(error) or 'interrupted'
    if resumes or isinstance(error, Interrupted):
      what += '; run the same command again to resume'
    _fail(what, getattr(error, 'code', 130))  # the code of `Interrupted`
  except Exception as error:
    if full := _full_memory(error):
      _fail(full, 2)
    if not processes.is_distributed():
      raise
    traceback.print_exc()
    _exit(1)


def _full_memory(error: Exception) -> str:
  """Returns what to do if the memory of a device is full; '' if it is not."""
  for cause in causes(error):
    if isinstance(cause, jax.errors.JaxRuntimeError) and (
      str(cause).startswith('RESOURCE_EXHAUSTED')
    ):
      return (
        f'the memory of the device is full ({first_line(cause)}). In training,'
        ' --config.train.accumulate=4 or --config.train.rematerialize saves'
        ' memory; elsewhere, take smaller batches. python -m apnet_jax fits'
        ' tells the memory that a training needs.'
      )
  return ''


def _fail(message: str, code: int) -> None:
  print(f'error: {printable(message)}', file=sys.stderr)
  _exit(code)


def _exit(code: int) -> None:
  processes.exit_with(code)
  background.exit_with(code)
  sys.exit(code)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  arguments = [_expand_home(argument) for argument in argv]
  for argument in arguments:
    check_config_file(argument)
  try:
    return flags.FLAGS(arguments)
  except SystemExit as error:
    # absl ends with code 1 after it has printed a help text that was asked for.
    if {arg.lstrip('-') for arg in argv[1:]} & HELP_FLAGS:
      raise SystemExit(0) from error
    raise
  except (flags.Error, AttributeError, KeyError) as error:
    raise flag_error(error, argv) from error


def flag_error(error: Exception, argv: Sequence[str]) -> UserError:
  """Returns the message for an error of absl or ml_collections about flags.

  Args:
    error: flags.Error; or AttributeError or KeyError, for an unknown field of
      the configuration.
    argv: the command line.
  """
  if not isinstance(error, flags.Error):
    return UserError(
      f'{_unknown_fields(error, argv)}: the configuration has no such field;'
      ' apnet_jax/config.py lists them all.'
    )
  # An error within a configuration file comes with its traceback.
  message = str(error).strip().splitlines()
  if 'get_config() takes 0 positional arguments' in message[-1]:
    return UserError(
      'this configuration has no variants: leave out the colon in --config, and'
      ' what follows it.'
    )
  return UserError(
    re.sub(r'^[\w.]+: ', '', message[-1])
    if 'Traceback' in str(error)
    else '\n'.join(map(_in_plain_words, message))
  )


def _unknown_fields(error: Exception, argv: Sequence[str]) -> str:
  """Returns the flags in `argv` whose field is unknown.

  Args:
    error: what ml_collections raised for an unknown field or section.
    argv: the command line.
  """
  word = re.search(r'\w+', str(error))
  name = word[0] if word else ''
  names = (argument.split('=')[0] for argument in argv)
  given = [given for given in names if name in given.split('.')]
  return ', '.join(given) or name


def _expand_home(argument: str) -> str:
  """Returns `--output=~/a` with the home folder, which bash leaves as it is.

  What a run records and compares when it resumes is kept as it is given:
  --init_from and the fields of the configuration.
  """
  name, equals, value = argument.partition('=')
  if re.fullmatch(r'--?(?!init_from)\w+', name) and value.startswith('~'):
    return name + equals + os.path.expanduser(value)
  return argument


def check_config_file(argument: str) -> None:
  """Raises UserError if an argument is --config=FILE and there is no FILE.

  ml_collections tells it at the first use of the configuration, in its terms.
  """
  file = re.match(r'--?config=([^:]+)', argument)
  if file and not os.path.exists(file[1]):
    raise UserError(f'--config={file[1]} does not exist.')


def _in_plain_words(line: str) -> str:
  """Returns a line of an error about flags; a missing flag is said plainly."""
  missing = re.fullmatch(
    r'flag --(\w+)=None: Flag --\1 must have a value other than None\.', line
  )
  if not missing:
    return line
  return f'give --{missing[1]}. {flags.FLAGS[missing[1]].help}'


def no_more_arguments(argv: Sequence[str]) -> None:
  """Raises UserError if the command line has arguments that are not flags.

  Args:
    argv: the program's name, and the arguments that are not flags.
  """
  if len(argv) > 1:
    raise UserError(f'unexpected arguments: {" ".join(argv[1:])}')


def define_config(help_string: str) -> flags.FlagHolder:
  """Defines the flag --config, whose default is the library's configuration.

  Args:
    help_string: description of the flag, to which the default is added.
  """
  return config_flags.DEFINE_config_file(
    'config',
    config.__file__,
    f'{help_string} Default: the defaults of all fields.',
  )


def define_rules() -> flags.FlagHolder:
  """Defines the flag --config of eval.py, which has the section `eval` only."""
  with errors_as_messages():  # absl reads the fields while it defines the flag
    try:
      return config_flags.DEFINE_config_dict(
        'config',
        ml_collections.ConfigDict({'eval': config.get_config().eval}),
        'Changes a rule of evaluation, as --config.eval.drop_distractors.'
        ' Default of each: that of the training; shown are those of a new'
        ' configuration.',
      )
    except (AttributeError, KeyError) as error:
      raise UserError(
        f'{_unknown_fields(error, sys.argv)}: eval.py has no such field. It'
        ' takes --config.eval.FIELD only; apnet_jax/config.py lists the fields.'
        ' For own images it has --pattern, --ignore_cameras,'
        ' --folders_are_people, --test_fraction and --allow_other_counts.'
      ) from error


def define_which() -> flags.FlagHolder:
  """Defines the flag --which, which chooses a checkpoint of a workdir."""
  return flags.DEFINE_enum(
    'which',
    'last',
    ['last', 'best'],
    'Checkpoint: the last, or the best by mAP (which is chosen on the test'
    ' set).',
  )


def define_flip() -> flags.FlagHolder:
  """Defines the flag --flip, which is None without it on the command line."""
  return flags.DEFINE_bool(
    'flip',
    None,
    'Averages the embeddings of an image and its mirror image, which doubles'
    ' the time; --noflip embeds the image alone. Default: the setting of the'
    " stored threshold, if there is one; otherwise that of the run's"
    ' evaluation.',
  )


def define_network() -> tuple[flags.FlagHolder, ...]:
  """Defines the flags of commands that compare images by their embeddings.

  Returns:
    The flags --ckpt, --which, --flip, --threshold and --strict.
  """
  return (
    flags.DEFINE_string('ckpt', None, CKPT_HELP),
    define_which(),
    define_flip(),
    flags.DEFINE_float(
      'threshold',
      None,
      'Lowest cosine similarity of two images of one person; default: the'
      ' threshold that eval.py --choose_threshold has stored.',
      lower_bound=-1,
      upper_bound=1,
    ),
    define_strict(),
  )


def define_strict() -> flags.FlagHolder:
  """Defines the flag --strict of commands that leave out unreadable images."""
  return flags.DEFINE_bool(
    'strict',
    False,
    'Stops at the first image of a folder that cannot be read, instead of'
    ' leaving it out.',
  )


def check_output(path: str | os.PathLike, flag: str = '--json') -> None:
  """Checks that a file can be written, before long work whose result it takes.

  Args:
    path: value of a flag; '' for no file.
    flag: the flag, for messages.

  Raises:
    UserError: the path is a folder, or the file's folder is a file or cannot be
      written.
  """
  if not path:
    return
  path = pathlib.Path(path)
  if path.is_dir():
    raise UserError(f'{flag}={path} is a folder: give the name of a file.')
  check_place(path, f'{flag}={path}')


def warn(text: str) -> None:
  """Prints a warning to standard error, unless the text is empty."""
  if text:
    print(f'warning: {printable(text)}', file=sys.stderr)


def define_processes() -> tuple[flags.FlagHolder, ...]:
  """Defines the flags that start a command in several processes by hand.

  Returns:
    The flags --coordinator_address, --num_processes and --process_id.
  """
  return (
    flags.DEFINE_string(
      'coordinator_address',
      None,
      'HOST:PORT of process 0, to run in several processes. Not needed on Cloud'
      ' TPU and under SLURM, which are detected.',
    ),
    flags.DEFINE_integer('num_processes', None, 'Number of processes.'),
    flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.'),
  )


def start_processes(*given: flags.FlagHolder) -> None:
  """Joins the other processes of a command, if there are any.

  Only process 0 prints to standard output. All processes print errors.

  Args:
    *given: the flags that `define_processes` returned, in the same order.
  """
  processes.start(*(flag.value for flag in given))
  if not processes.is_first():
    os.environ['TQDM_DISABLE'] = '1'  # tqdm is imported later
    # Redirects the file descriptor, since C++ libraries print to it, too.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def quieten() -> None:
  """Silences the log messages of libraries that use `absl.logging`.

  Such libraries log each file that they write or fail to write. A failure is
  still shown, because the library also raises an exception.
  """
  logging.set_verbosity(logging.FATAL)
