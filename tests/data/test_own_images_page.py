"""Runs the examples of docs/own_images.md, and compares what they print."""

import ast
import doctest
import importlib
import itertools
import pathlib
import re
import shlex

import jax
import numpy as np
from PIL import Image
import pytest

from apnet_jax.errors import UserError
from apnet_jax.training import checks
from data import doctor, pipeline

PAGE = pathlib.Path(__file__).parents[2] / 'docs/own_images.md'
BLOCK = re.compile(r'^```(\w+)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def sections():
  """Yields the title and the blocks of each section that has commands."""
  for text in PAGE.read_text().split('\n## ')[1:]:
    blocks = BLOCK.findall(text)
    if any(kind == 'console' for kind, _ in blocks):
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
  exif = Image.Exif()
  if kind == 'turned':
    exif[0x0112] = 6
    pixels = np.rot90(pixels)
  Image.fromarray(pixels).save(path, exif=exif)


def examine(arguments):
  doctor.main(arguments)


def train(arguments):
  """Opens the data of a training, as train.py does before its first step."""
  flags = dict(one.removeprefix('--').split('=', 1) for one in arguments)
  module = flags.pop('config').removesuffix('.py').replace('/', '.')
  config = importlib.import_module(module).get_config()
  for name, value in flags.items():
    *sections, field = name.split('.')[1:]
    section = config
    for part in sections:
      section = section[part]
    text = isinstance(section[field], str)
    section[field] = value if text else ast.literal_eval(value)
  config.data.update(prepared_dir='prepared', image_size=(32, 16))
  try:
    checks.check_batch(config, jax.device_count())
    print(pipeline.load(config).summary)
  except UserError as error:
    print(f'error: {error}')


PROGRAMS = {'python -m data.doctor': examine, 'python train.py': train}


def run(command, capsys):
  (call,) = (
    call for start, call in PROGRAMS.items() if command.startswith(start)
  )
  words = shlex.split(command)[3 if call is examine else 2 :]
  capsys.readouterr()
  try:
    call(words)
  except SystemExit:
    pass
  return capsys.readouterr().out


@pytest.mark.parametrize('blocks', list(sections()))
def test_examples(blocks, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  seeds = itertools.count()
  for kind, text in blocks:
    if kind == 'csv':
      (tmp_path / 'photos').mkdir()
      (tmp_path / 'photos/people.csv').write_text(text)
    elif kind == 'files':
      for line in text.splitlines():
        name, _, state = line.partition(' ')
        for path in expand(name):
          write_image(tmp_path / path, state, next(seeds))
    else:
      commands = re.split(r'^\$ ', text, flags=re.MULTILINE)[1:]
      assert commands
      for command in commands:
        line, _, expected = command.partition('\n')
        printed = run(line, capsys)
        example = doctest.Example(line, expected)
        checker = doctest.OutputChecker()
        assert checker.check_output(expected, printed, FLAGS), (
          checker.output_difference(example, printed, FLAGS)
        )
