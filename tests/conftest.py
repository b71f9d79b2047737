"""Four CPU devices for every test, and fixtures that tests share."""

import gc
import os

from tests.compilation import xla_flags

os.environ['XLA_FLAGS'] = xla_flags(devices=4, optimization=0)
os.environ['JAX_PLATFORMS'] = 'cpu'
# Small programs are kept, too: many tests compile the same ones.
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.05'
# For commands that tests start; pyproject.toml has the same, and says why.
os.environ['PYTHONWARNINGS'] = ','.join(
  f'ignore:Error {doing} persistent compilation cache entry:UserWarning'
  for doing in ('reading', 'writing')
)
# Servers of tests are on the loopback, whatever the user's settings.
os.environ['NO_PROXY'] = os.environ['no_proxy'] = 'localhost,127.0.0.1'
os.environ.pop('HF_HUB_OFFLINE', None)
os.environ.pop('TRANSFORMERS_OFFLINE', None)  # which means the same

import hypothesis
import jax
import pytest

from data.synthetic import draw

hypothesis.settings.register_profile(
  'house',
  deadline=None,  # the first example of a shape compiles
  derandomize=True,
  max_examples=50,
  suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile('house')

# Files that take longest, which start first: workers then end together.
LONGEST = (
  'test_processes.py',  # waits for most of its time
  'test_commands.py',
  'test_kills.py',
  'test_fuzz.py',
  'test_torch_weights.py',
  'test_trainer.py',
  'test_not_finite.py',
  'test_apnet.py',
  'test_devices.py',
)


def pytest_collection_modifyitems(items):
  """Puts the longest files first; --no-loadscope-reorder keeps the order."""
  rank = {name: i for i, name in enumerate(LONGEST)}
  items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope='module', autouse=True)
def garbage_collection():
  """Collects garbage after each file, instead of during tests.

  Tracing a network makes millions of objects: the collector would take a
  seventh of the time.
  """
  gc.disable()
  yield
  gc.enable()
  gc.collect()


@pytest.fixture(scope='session', autouse=True)
def compilation_cache(tmp_path_factory):
  """One folder of compiled programs for all workers of this run."""
  root = tmp_path_factory.getbasetemp()
  if os.environ.get('PYTEST_XDIST_WORKER'):
    root = root.parent
  path = root / 'compilation_cache'
  jax.config.update('jax_compilation_cache_dir', str(path))
  return path


@pytest.fixture(scope='session')
def raw(tmp_path_factory):
  """A small drawn data set."""
  root = tmp_path_factory.mktemp('raw') / 'drawn'
  draw.draw_dataset(
    root, train_identities=8, test_identities=4, distractors=2, junk=2,
    progress=False,
  )  # fmt: skip
  return root


@pytest.fixture(scope='session')
def own(raw, compilation_cache):
  """Flags that keep a command in the folders of this test run."""
  return (
    f'--config.data.dir={raw}',
    '--config.data.allow_other_counts=True',
    f'--config.data.prepared_dir={raw.parent / "prepared"}',
    f'--config.compilation_cache_dir={compilation_cache}',
  )


@pytest.fixture
def x64():
  """float64 for one test."""
  with jax.enable_x64(True):
    yield
