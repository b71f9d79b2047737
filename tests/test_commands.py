"""The documented commands, run as a user runs them, at smoke size.

Most run in forks of one process that has imported their packages; a few start
a Python interpreter of their own, as `python` does.
"""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest

import apnet_jax
from apnet_jax import __main__
from apnet_jax.models.apnet import initialize
from apnet_jax.models.torch_weights import to_state_dict
from apnet_jax.models.weight_files import write_weights
from apnet_jax.workdir import json_files, run_files
from apnet_jax.workdir.checkpoints import Checkpoints
from benchmarks import startup
from data import datasets
from tests.compilation import xla_flags
from tests.fakes import small_config
from tests.inference import networks
from tests.preloaded import PATIENCE, Preloaded

ROOT = pathlib.Path(__file__).parents[1]
SMOKE = (
  '--config.model.backbone=resnet14',
  '--config.model.sites=(4,)',  # each takes seconds to compile
  '--config.data.image_size=(32,16)',
  '--config.train.P=4',
  '--config.train.K=2',
  '--config.train.log_every_steps=1',
  '--config.eval.batch_size=16',
)


@pytest.fixture(scope='module', autouse=True)
def attempts(tmp_path_factory):
  """The file that lists attempts to reach the network; there are none."""
  path = tmp_path_factory.mktemp('network') / 'attempts'
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('ATTEMPTS', str(path))
    patch.setenv('PYTHONPATH', str(ROOT / 'tests' / 'offline'))
    yield path
  assert not path.exists(), path.read_text()


@pytest.fixture(scope='module')
def preloaded(attempts, tmp_path_factory):
  """A server that runs commands without importing packages anew."""
  server = Preloaded(tmp_path_factory.mktemp('printed'))
  yield server
  server.close()


@pytest.fixture(scope='module')
def run(preloaded):
  """Runs a command; returns its output and errors."""

  def run(*arguments, code=0):
    found, out, err = preloaded.run(*arguments)
    assert found == code, err[-3000:]
    return out, err

  return run


def start(*arguments, devices=1):
  """Starts a command in an interpreter of its own."""
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    cwd=ROOT,
    env=dict(os.environ, XLA_FLAGS=xla_flags(devices)),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run_anew(*arguments, code=0):
  """Like `run`, in an interpreter of its own; train.py has eight devices."""
  process = start(*arguments, devices=8 if arguments[0] == 'train.py' else 1)
  out, err = process.communicate(timeout=PATIENCE)
  assert process.returncode == code, err[-3000:]
  return out, err


def documented_commands():
  text = (ROOT / 'README.md').read_text()
  blocks = re.findall(r'```sh\n(.*?)```', text, re.DOTALL)
  lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
  return [shlex.split(line) for line in lines if line.startswith('python ')]


@pytest.fixture(scope='module')
def benchmarks(tmp_path_factory):
  """A folder that holds small data sets, as people keep theirs."""
  root = tmp_path_factory.mktemp('benchmarks')
  for name in ('market1501', 'dukemtmc_reid', 'msmt17'):
    layout = datasets.find(name)
    (root / layout.nested[-1]).symlink_to(ROOT / 'data' / name / 'dummy_data')
  return root


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
  """Weights of ResNet-14's backbone, as of ImageNet, with its classifier."""
  model = apnet_jax.create_model(small_config().model, 2)
  state_dict = to_state_dict(initialize(model, (32, 16), seed=7))
  path = tmp_path_factory.mktemp('weights') / 'imagenet.safetensors'
  write_weights(
    path,
    {
      name.removeprefix('base.'): value
      for name, value in state_dict.items()
      if name.startswith('base.')
    }
    | {'fc.weight': np.zeros((1000, 2048), np.float32)},
  )
  return path


def test_readme_commands_run(run, own, pretrained, benchmarks, tmp_path):
  """Runs them in their order, with flags that make them small.

  The first train.py and the first eval.py have an interpreter of their own. A
  checkpoint of eight devices is evaluated, searched and exported on one.
  """
  begun = set()
  small = dict(part.split('=', 1) for part in (*own, *SMOKE))
  workdirs, outputs = {}, {}
  for _, script, *flags in documented_commands():
    command = [script, *(flag for flag in flags if '--' not in flag)]
    places = {'DIR': small['--config.data.dir']}
    places |= {
      f'{k}/result.json': v / 'result.json' for k, v in workdirs.items()
    }
    places |= workdirs
    places |= dict.fromkeys(('A.jpg', 'B.jpg'), an_image(places['DIR']))
    command = [places.get(c, c) for c in command]
    flags = [flag if '=' in flag else f'{flag}=True' for flag in flags]
    flags = dict(flag.split('=', 1) for flag in flags if '--' in flag)
    if '--config.model.pretrained' in flags:
      flags['--config.model.pretrained'] = outputs.get(
        flags['--config.model.pretrained'], pretrained
      )
    if script == 'train.py':
      name = pathlib.Path(flags['--config'].split(':')[0]).stem
      name = flags.get('--workdir', f'runs/{name}')
      workdirs[name] = tmp_path / str(len(workdirs))
      flags |= small
      flags |= {'--workdir': workdirs[name], '--config.train.steps': 1}
    if '--ckpt' in flags:
      flags['--ckpt'] = workdirs[flags['--ckpt']]
    if '--gallery' in flags:
      flags['--gallery'] = f'{places["DIR"]}/query'
    if '--index' in flags:
      flags['--index'] = tmp_path / 'out' / flags['--index']
    if '--add' in flags:
      flags['--add'] = outputs[flags['--add']]
    if '--choose_threshold' in flags:
      flags['--choose_threshold'] = 0.5  # of few pairs
    if '--data_dir' in flags:
      flags |= {'--data_dir': benchmarks, '--allow_other_counts': True}
    for name in {'--report', '--json', '--output'} & flags.keys():
      outputs[flags[name]] = tmp_path / 'out' / flags[name]
      flags[name] = outputs[flags[name]]
    if 'complexity' in command:
      flags['--variant'] = 'apnet_c2'  # all of them take a minute
    if 'fits' in command:  # tests/compilers runs it, where its compiler is
      continue
    if 'data.table1' in command:
      flags['--prepared_dir'] = small['--config.data.prepared_dir']
    anew = script.endswith('.py') and script not in begun
    begun.add(script)
    run_it = run_anew if anew else run
    out, err = run_it(*command, *(f'{k}={v}' for k, v in flags.items()))
    assert 'Traceback' not in err
    (expected,) = (v for k, v in EXPECTED.items() if k in command)
    if any(str(c).endswith('.json') for c in command):
      expected = 'queries, drawn'
    assert expected in out
    for path in outputs.values():
      assert path.exists()
    if script == 'eval.py' and '--json' not in flags:
      cards = (flags['--ckpt'] / 'evaluations').iterdir()
      card = max(cards, key=lambda path: path.stat().st_mtime_ns)
      rules = json.loads(card.read_text())['protocol']
      assert (rules['ap'], rules['distractors']) == (
        flags.get('--config.eval.ap', 'step'),
        'dropped' if '--config.eval.drop_distractors' in flags else 'kept',
      )
    if '--config.model.pretrained' in flags:
      weights = flags['--config.model.pretrained']
      assert f'Starting from the weights {weights}' in out


def an_image(root):
  return min(pathlib.Path(root, 'query').iterdir())


# What a command that has worked has printed.
EXPECTED = {
  'train.py': 'Rank-1',
  'eval.py': 'Rank-1',
  'data.doctor': 'Market-1501',
  'data.table1': 'other images',
  'complexity': 'APNet-C_2',
  'attention': 'site 4, level 2, attention',
  'search': 'same person',
  'compare': 'same person',
  'curves': 'The curves are in',
  'explain': 'Layer by layer',
  'export': 'the lowest cosine is',
  'export-weights': 'arrays after step 1',
  'pack': 'after step 1',
  'embed': 'embeddings of 2,048 features',
  'index': 'embeddings of 2,048 features',
}


def steps_logged(workdir):
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().splitlines() if path.exists() else []
  return [json.loads(line)['step'] for line in lines if '"train/loss"' in line]


def check_output(out, err):
  """Checks what the demo's training prints, at any size."""
  for beginning in filter(None, startup.PHASES.values()):
    assert f'\n{beginning}' in f'\n{out}'
  table = out[out.index('mAP') :]
  for text in ('mINP', 'Rank-1', 'Rank-10', 'raw pixels', 'trained network'):
    assert text in table
  assert 'Training: 100%' in err and 'images/s' in err and 'loss' in err
  for noise in ('Warning', 'WARNING', 'Traceback'):
    assert noise not in err, err


def check_evaluation(run, workdir, tmp_path):
  """eval.py needs the workdir alone, and finds what train.py found.

  That no threshold can be chosen on so few images is said when all is done.
  """
  report = tmp_path / 'report'
  out, err = run(
    'eval.py', f'--ckpt={workdir}', f'--report={report}',
    '--choose_threshold=1e-8', code=2,
  )  # fmt: skip
  assert 'error: no threshold was chosen: 1e-08 of' in err
  assert 'Rank-1' in out and 'Warning' not in err
  assert not (workdir / run_files.THRESHOLD_FILE).exists()
  trained = json.loads((workdir / 'result.json').read_text())
  (card,) = (workdir / 'evaluations').iterdir()
  step = trained['checkpoint']['step']
  assert card.name == f'{trained["dataset"]}-step{step}.json'  # same images
  evaluated = json.loads(card.read_text())
  assert json.loads((report / 'result.json').read_text()) == evaluated
  for field in trained.keys() - {'verification', 'diagnosis'}:
    assert evaluated[field] == trained[field], field
  assert evaluated['verification']['pairs']['genuine'] > 0
  assert evaluated['diagnosis']['by_cameras']['mAP']
  for name in ('ranking', 'hardest', 'threshold', 'cameras'):
    with Image.open(report / f'{name}.png') as picture:
      assert picture.size[0] > 300


def write_workdir_of_market(folder):
  config, _ = networks.write_workdir(folder)
  config.data.update(name='market1501', prepared_dir=str(folder / 'prepared'))
  json_files.write_json(folder / run_files.CONFIG_FILE, config.to_dict())


def test_grad_cam_is_compiled_once_for_all_data_sets(run, benchmarks, tmp_path):
  write_workdir_of_market(tmp_path)
  code = (
    'import runpy\n'
    'from apnet_jax.workdir import restore\n'
    'from tests import compilation, tiny\n'
    'restore.create_model = tiny.tiny_model\n'
    'with compilation.counting() as programs:\n'
    '  try:\n'
    "    runpy.run_path('eval.py', run_name='__main__')\n"
    '  finally:\n'
    "    print('compiled:', programs['jit(attend_pairs)'])\n"
  )
  out, _ = run(
    '-c', code, f'--ckpt={tmp_path}', '--dataset=market,duke',
    f'--data_dir={benchmarks}', '--allow_other_counts', '--attention=1',
    f'--report={tmp_path / "report"}',
  )  # fmt: skip
  assert out.count('The report is ') == 2
  assert out.endswith('compiled: 1\n')


def test_a_report_that_fails_does_not_lose_the_metrics(
  run, benchmarks, tmp_path
):
  """The card of the first data set is kept; the second is not evaluated."""
  write_workdir_of_market(tmp_path)
  code = (
    'import runpy\n'
    'from apnet_jax.visualize import report\n'
    'from apnet_jax.workdir import restore\n'
    'from tests import tiny\n'
    'restore.create_model = tiny.tiny_model\n'
    'def fail(*arguments):\n'
    "  raise OSError(28, 'No space left on device')\n"
    'report.write_report = fail\n'
    "runpy.run_path('eval.py', run_name='__main__')\n"
  )
  out, err = run(
    '-c', code, f'--ckpt={tmp_path}', '--dataset=market,duke',
    f'--data_dir={benchmarks}', '--allow_other_counts',
    f'--report={tmp_path / "report"}', code=2,
  )  # fmt: skip
  assert 'No space left on device' in err and 'Traceback' not in err
  assert '\nmarket  ' in out.split('metrics in percent')[1]
  (card,) = (tmp_path / 'evaluations').iterdir()
  cards = json.loads(card.read_text())  # by name, as those of both would be
  assert {name: c['dataset'] for name, c in cards.items()} == {
    'market': 'market1501'
  }


def test_terminated_and_started_again(run, preloaded, own, tmp_path):
  """tests/faults/test_kills.py shows that the bits are the same."""
  workdir = tmp_path / 'run'
  command = (
    'train.py',
    '--config=configs/market.py',  # whose program is compiled already
    f'--workdir={workdir}',
    '--config.train.steps=12',
    '--config.data.name=synthetic',  # else the demo's
    '--config.eval.pixel_baseline=True',
    *own,
    *SMOKE,
  )
  preloaded.start(*command)
  deadline = time.time() + 240
  while time.time() < deadline and not preloaded.has_ended():
    if steps_logged(workdir):
      break
    time.sleep(0.001)
  os.kill(preloaded.pid, signal.SIGTERM)
  code, err = preloaded.code(), preloaded.errors()
  assert code == 143, err[-3000:]
  assert 'run the same command again to resume' in err
  steps = steps_logged(workdir)
  assert 1 <= len(steps) < 12

  out, err = run(*command)
  assert f'Resuming after step {steps[-1]} ' in out
  check_output(out, err)
  assert steps_logged(workdir) == [*range(1, 13)]
  check_evaluation(run, workdir, tmp_path)


@pytest.mark.parametrize('anew', [False, True])
def test_a_command_that_looks_for_the_network_would_be_seen(
  run, attempts, anew
):
  code = "import socket; socket.create_connection(('example.org', 80))"
  _, err = (run_anew if anew else run)('-c', code, code=1)
  assert 'tests have no network' in err
  assert 'socket.getaddrinfo example.org' in attempts.read_text()
  attempts.unlink()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      [
        'train.py',
        '--config=configs/market.py',
        '--config.model.pretrained=a.pth',
        '--init_from=runs/market',
      ],
      'error: --init_from=runs/market and --config.model.pretrained=a.pth name',
    ),
    (
      ['train.py', '--config=configs/synthetic.py', '--config.train.foo=1'],
      'error: --config.train.foo: the configuration has no such field',
    ),
    (
      ['train.py', '--config=configs/market.py', '--config.data.dir=nowhere'],
      'nowhere/Market-1501-v15.09.15 (no such folder)',
    ),
    (
      ['train.py', '--config=configs/synthetic.py', '--config.trian.P=1'],
      'error: --config.trian.P: the configuration has no such field',
    ),
    (
      ['eval.py', '--ckpt=runs/x', '--config.data.pattern=a'],
      'error: --config.data.pattern: eval.py has no such field. It takes'
      ' --config.eval.FIELD only',
    ),
    (
      ['eval.py', '--ckpt=runs/x', '--config.eval.fli=False'],
      'error: --config.eval.fli: eval.py has no such field',
    ),
    (
      ['train.py', '--config=configs/nothing.py:spatial', '--config.seed=1'],
      'error: --config=configs/nothing.py does not exist.',
    ),
    (
      ['train.py', '--config=configs/market.py:best'],
      "'best' is not one of (paper, spatial, official)",
    ),
    (
      ['train.py', '--config=configs/synthetic.py:spatial'],
      'error: this configuration has no variants: leave out the colon',
    ),
    (
      [
        'train.py',
        '--config=configs/common.py',
        '--config.data.name=synthetic',
        '--config.data.dir=nowhere',
      ],
      'error: give --workdir: this configuration has no config.name.',
    ),
    (
      [
        'train.py',
        '--config=configs/market.py',
        '--config.model.pretrained=nowhere.pth',
      ],
      "config.model.pretrained='nowhere.pth': the weights nowhere.pth are not",
    ),
    (
      ['-m', 'apnet_jax', 'compare', 'A.jpg', 'B.jpg'],
      'error: to compare images give --ckpt',
    ),
    (
      ['-m', 'apnet_jax', 'fits', '--device=h200'],
      "error: --device=h200: 'h200' is not one of v4, v5e, v5p, v6e, h100",
    ),
    (['-m', 'apnet_jax', 'exlpain'], "error: 'exlpain' is not a command"),
    (
      ['-m', 'apnet_jax', 'explain', '--config.model.radix=3'],
      'error: att1: 256 channels do not split into 3 parts',
    ),
    (
      ['train.py', '--config=configs/market.py', '--config.model.levels=7'],
      'error: config.model.levels=7 is not one of (0, 1, 2, 3)',
    ),
    (
      ['eval.py', '--ckpt=WORKDIR', '--dataset=market1501'],
      '--dataset needs --data_dir',
    ),
    (
      ['eval.py', '--ckpt=WORKDIR', '--dataset=mars,market', '--data_dir=x'],
      "error: --dataset='mars' is not one of market1501, dukemtmc_reid",
    ),
    (
      [
        'eval.py',
        '--ckpt=WORKDIR',
        '--dataset=duke,msmt17,market',
        '--data_dir=x',
        '--data_dir=y',
      ],
      '--data_dir is given 2 times for 3 data sets (duke, msmt17, market)',
    ),
    (
      ['eval.py', '--ckpt=WORKDIR', '--config.eval.ap=best'],
      "error: config.eval.ap='best' is not one of ('step', 'trapezoid')",
    ),
    (
      ['eval.py', '--ckpt=WORKDIR', '--config.eval.rerank_k1=7'],
      'error: --config.eval.rerank_k1 needs --rerank.',
    ),
    (
      [
        'eval.py',
        '--ckpt=WORKDIR',
        '--choose_threshold=0.1',
        '--config.eval.distance=euclidean',
      ],
      "cosine similarities, but config.eval.distance='euclidean'",
    ),
    (
      [
        'eval.py',
        '--ckpt=WORKDIR',
        '--choose_threshold=0.1',
        '--config.eval.multi_query=True',
      ],
      'multi_query=True averages several into a query: add --config.eval.multi',
    ),
    (
      ['eval.py', '--ckpt=WORKDIR', '--choose_threshold=nan'],
      'error: --choose_threshold=nan must be more than 0.',
    ),
    (
      ['eval.py', '--ckpt=WORKDIR', '--dimensions=256'],
      'error: --dimensions needs --fit, a file of embeddings.',
    ),
    (
      ['train.py', '--config=configs/synthetic.py', '--num_processes=2'],
      'error: --coordinator_address and --process_id missing',
    ),
    (
      ['-m', 'apnet_jax', 'attention', '--ckpt=x', '--match=y', '--summary']
      + ['README.md'],
      'error: --match and --summary exclude each other.',
    ),
    (
      ['-m', 'apnet_jax', 'pack'],
      'error: give --ckpt. Workdir of train.py, or a file',
    ),
    (
      ['-m', 'apnet_jax', 'embed', '--ckpt=nowhere'],
      'error: give --output. File to write, .npz or .parquet.',
    ),
    (
      ['eval.py', '--ckpt=nowhere'],
      'error: --ckpt=nowhere is not a workdir of train.py',
    ),
  ],
)
def test_mistakes_are_messages(run, arguments, message, tmp_path):
  if 'WORKDIR' in arguments[1]:
    make_workdir(tmp_path)
    arguments = ['eval.py', f'--ckpt={tmp_path}', *arguments[2:]]
  _, err = run(*arguments, code=2)
  assert message in err


def make_workdir(folder, name=''):
  """Makes what eval.py reads before it looks at its flags."""
  json_files.write_json(folder / 'config.json', {'data': {'name': name}})
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(1, {'w': np.zeros(1)})


@pytest.mark.parametrize('asked', [False, True])
def test_a_threshold_needs_a_single_data_set(run, tmp_path, asked):
  """A workdir stores one threshold: choosing a second would replace it."""
  names = 'market1501,dukemtmc_reid'
  make_workdir(tmp_path, names)
  flags = [f'--dataset={names}', '--data_dir=x'] * asked
  _, err = run(
    'eval.py', f'--ckpt={tmp_path}', '--choose_threshold=0.1', *flags, code=2
  )
  assert 'needs one data set, not 2 (market1501, dukemtmc_reid): name' in err


def test_a_threshold_needs_a_workdir_to_write_to(run, tmp_path):
  """It is said before the evaluation; root may write to any folder."""
  make_workdir(tmp_path)
  code = (
    'import os, runpy\n'
    f'os.access = lambda path, mode: str(path) != {str(tmp_path)!r}\n'
    "runpy.run_path('eval.py', run_name='__main__')\n"
  )
  flags = f'--ckpt={tmp_path}', '--json=card.json', '--choose_threshold=0.1'
  _, err = run('-c', code, *flags, code=2)
  assert f'and --ckpt={tmp_path} is not writable: give a copy' in err
  assert 'Traceback' not in err


def test_devices_that_do_not_divide_a_batch_are_an_error_before_all(
  preloaded, tmp_path
):
  preloaded.start(
    'train.py',
    '--config=configs/market.py',
    f'--workdir={tmp_path}/run',
    f'--config.data.prepared_dir={tmp_path}/prepared',
    devices=6,
  )
  assert preloaded.code() == 2
  assert (
    'error: a batch of config.train.P=20 times config.train.K=4 = 80 images'
    ' does not divide among 6 devices. Give another number of identities, as'
    ' config.train.P=21'
  ) in preloaded.errors()
  assert not list(tmp_path.iterdir())


FLAGS = ('--config', '--ckpt', '--index', '--output', '--variant')
COMMANDS = [
  'train.py',
  'eval.py',
  *(f'-m apnet_jax {c}' for c in __main__.COMMANDS),
]


@pytest.mark.parametrize('command', COMMANDS)
def test_help_says_what_it_does(run, command):
  out, _ = run(*command.split(), '--helpshort')
  assert any(flag in out for flag in FLAGS)
  assert 'python ' + command in out


def test_commands_are_listed():
  out, _ = run_anew('-m', 'apnet_jax')
  for name in __main__.COMMANDS:
    assert re.search(rf'^  {name} +[A-Z]', out, re.MULTILINE)
