"""Runs the examples of docs/own_images.md, and compares what they print.

A block `files` lists images to make. Any other block with a name is the file of
that name. A block `console` has commands, each with what it prints.
"""

import contextlib
import dataclasses
import doctest
import itertools
import os
import pathlib
import re
import runpy
import shlex
import signal
import subprocess
import sys
import tempfile

from absl import flags, logging
import numpy as np
from PIL import Image
import pytest
from tqdm import tqdm

from apnet_jax import __main__, cli
from apnet_jax.parallel import processes
from apnet_jax.training import checks, programs, trainer
from apnet_jax.workdir import restore
from data import doctor
import data.pipeline  # noqa: F401 - defines flags, which `execute` must keep
from tests.fakes import sending
from tests.tiny import tiny_model

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / 'docs/own_images.md'
BLOCK = re.compile(r'^```(\w+) ?(.*)\n((?s:.*?))^```$', re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = {'apnet_jax': __main__, 'data.doctor': doctor}
# Flags of train.py that the page leaves out.
SMALL = (
  '--config.compilation_cache_dir=',  # the tests have their own
  '--config.data.image_size=(64,32)',
  '--config.eval.batch_size=8',
  '--config.model.attention=none',
)


def sections():
  """Yields the title and the blocks of each section that has commands."""
  for text in PAGE.read_text().split('\n## ')[1:]:
    blocks = BLOCK.findall(text)
    if any(kind == 'console' for kind, _, _ in blocks):
      yield pytest.param(blocks, id=text.split('\n')[0])


def expand(text):
  """Expands braces, as {a,b} and {1..3}, like a shell."""
  match = re.search(r'\{([^{}]*)\}', text)
  if not match:
    return [text]
  inner = match[1].split(',')
  if numbers := re.fullmatch(r'(\d+)\.\.(\d+)', match[1]):
    inner = range(int(numbers[1]), int(numbers[2]) + 1)
  rests = expand(text[match.end() :])
  return [f'{text[: match.start()]}{x}{rest}' for x in inner for rest in rests]


def write_image(path, kind, seed):
  path.parent.mkdir(parents=True, exist_ok=True)
  if kind == 'broken':
    path.write_bytes(b'')
    return
  pixels = np.random.default_rng(seed).integers(0, 256, (96, 48, 3), np.uint8)
  if kind == 'turned':
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels)).save(path, exif=exif)
  else:
    Image.fromarray(pixels).save(path)


def write_file(name, text):
  path = pathlib.Path(name)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


@pytest.fixture
def machine(tmp_path, monkeypatch, compilation_cache):
  """An empty current folder in which commands run, with a tiny network."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'prepared'))
  for name in ('configs', 'eval.py', 'train.py'):
    (tmp_path / name).symlink_to(ROOT / name)
  monkeypatch.setattr(
    cli.app, 'run', lambda main, flags_parser: main(flags_parser(sys.argv))
  )
  monkeypatch.setattr(processes, 'start', lambda *_: None)  # JAX has started
  for module in (checks, restore, programs):
    monkeypatch.setattr(module, 'create_model', tiny_model)
  # Bars that vanish at their end are shown only where something takes long.
  display = tqdm.display
  monkeypatch.setattr(
    tqdm, 'display', lambda bar, **given: bar.leave and display(bar, **given)
  )
  # A failing command would end this process while a thread compiles.
  monkeypatch.setattr(programs.Programs, 'compile_ahead', lambda *_: None)
  verbosity = logging.get_verbosity()
  yield
  logging.set_verbosity(verbosity)


def stopping(train, step):
  """Returns a `train` that gets SIGTERM in a step, if that is not 0.

  Without `config.train.steps` it only prints what it would train on.
  """

  def train_until(config, feed, *args):
    if not config.train.steps:
      print(feed.summary)
      return
    if step:
      batches = sending(feed.batches, signal.SIGTERM, step - 1)
      feed = dataclasses.replace(feed, batches=batches)
    train(config, feed, *args)

  return train_until


def execute(words):
  """Executes what `python WORDS` would, in this process."""
  defined = set(flags.FLAGS)
  module = MODULES[words[1]] if words[0] == '-m' else None
  sys.argv = words[1:] if module else words
  try:
    if module:
      module.main()
    else:
      runpy.run_path(words[0], run_name='__main__')
  except SystemExit:
    pass
  finally:
    flags.FLAGS.remove_flag_values(set(flags.FLAGS) - defined)


def run_line(line, monkeypatch):
  """Runs a command; the comment `SIGTERM in step 3` does what it says."""
  words = shlex.split(line, comments=True)
  if words[0] != 'python':
    subprocess.run(line, shell=True, stdout=sys.stdout, stderr=sys.stdout)
    return
  signalled = re.search(r'# SIGTERM in step (\d+)$', line)
  with monkeypatch.context() as patch:
    train = stopping(trainer.train, int(signalled[1]) if signalled else 0)
    patch.setattr(trainer, 'train', train)
    patch.setattr(sys, 'argv', [])  # `execute` sets it
    execute([*words[1:], *(SMALL if words[1] == 'train.py' else ())])


@contextlib.contextmanager
def terminal():
  """Yields a function that returns what was printed, as a terminal shows it."""
  with tempfile.TemporaryFile('w+', buffering=1, newline='') as file:

    def shown():
      file.seek(0)
      return re.sub(r'[^\n]*\r', '', file.read())  # progress bars

    stderr = os.dup(2)
    os.dup2(file.fileno(), 2)  # handlers of signals write there
    try:
      with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield shown
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)


# ml_collections reads configuration files in a way that Python deprecates.
@pytest.mark.filterwarnings('ignore:the load_module')
@pytest.mark.parametrize('blocks', list(sections()))
def test_examples(blocks, machine, monkeypatch):
  seeds = itertools.count()
  for kind, name, text in blocks:
    if kind == 'files':
      for line in text.splitlines():
        images, _, state = line.partition(' ')
        for path in expand(images):
          write_image(pathlib.Path(path), state, next(seeds))
    elif name:
      write_file(name, text)
    else:
      assert kind == 'console'
      commands = re.split(r'^\$ ', text, flags=re.MULTILINE)[1:]
      assert commands
      for command in commands:
        line, _, expected = command.partition('\n')
        with terminal() as shown:
          run_line(line, monkeypatch)
          printed = shown()
        example = doctest.Example(line, expected)
        checker = doctest.OutputChecker()
        assert checker.check_output(expected, printed, FLAGS), (
          checker.output_difference(example, printed, FLAGS)
        )
