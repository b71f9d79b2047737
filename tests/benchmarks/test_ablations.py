"""Runs of a table: plan, claims, kills, results; train.py is pretended."""

import json
import os
import pathlib
import shlex
import signal
import sys
import time

import pytest

from apnet_jax.errors import UserError
from apnet_jax.models.network_fields import effective_fields
from apnet_jax.paper import tables, variants
from apnet_jax.paper.recipes import RECIPES
from apnet_jax.paper.tables import TABLES
from apnet_jax.retrieval import comparison
from apnet_jax.training import recipe
from apnet_jax.training.programs import total_steps
from benchmarks import ablation_cost, ablation_plan, ablation_runs, ablations
from benchmarks.ablation_runs import Results, Target
from tests.benchmarks.ablation_lines import make_line

CONFIG = 'configs/market.py'
# ml_collections reads configuration files by a deprecated function.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module')
TRAINED = [name for name, table in TABLES.items() if not table.counted]


def plan(table='table2', *overrides, seeds=(0,), config=CONFIG):
  return ablation_plan.plan(TABLES[table], config, overrides, seeds)


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
  monkeypatch.chdir(ablation_runs.ROOT)


# The plan


@pytest.mark.parametrize('table', TRAINED)
def test_each_row_trains_the_network_of_the_paper(table):
  for row, run in zip(TABLES[table].rows, plan(table), strict=True):
    variant = variants.VARIANTS[row.variant]
    model = variants.apply(variant, run.config.model)
    assert effective_fields(run.config.model) == effective_fields(model)
    assert tuple(run.config.data.image_size) == variant.image_size


def test_rows_replace_the_network_of_the_configuration():
  official, ours = plan(config=f'{CONFIG}:spatial'), plan()
  for theirs, run in zip(official, ours, strict=True):
    assert theirs.config.model.attention == run.config.model.attention
    assert theirs.config.model.levels == run.config.model.levels


def test_all_networks_come_before_the_second_seed():
  runs = plan('figure5', seeds=(3, 5))
  assert [run.seed for run in runs] == [3] * 6 + [5] * 6
  assert [run.config.seed for run in runs] == [run.seed for run in runs]
  assert len({run.hash for run in runs}) == 12
  assert len({run.recipe for run in runs}) == 1


def test_a_size_of_images_that_is_the_default_is_a_choice_too():
  for run in plan('table2', 'data.image_size=(384,192)'):
    assert tuple(run.config.data.image_size) == (384, 192)


def test_overrides_hold_for_all_networks():
  for run in plan('table2', 'train.epochs=7', 'data.image_size=(64,32)'):
    assert run.config.train.epochs == 7
    assert tuple(run.config.data.image_size) == (64, 32)


def test_spatial_networks_have_their_own_recipe_where_there_is_one():
  runs = {run.variant: run for run in plan()}
  assert runs['apnet_s2'].config.train.epochs == 150
  assert runs['apnet_c2'].config.train.epochs == 160
  named = {run.variant: run for run in plan(config=f'{CONFIG}:paper')}
  assert named['apnet_s2'].hash == runs['apnet_s2'].hash
  assert named['apnet_c2'].hash == runs['apnet_c2'].hash
  runs = {run.variant: run for run in plan(config='configs/synthetic.py')}
  assert runs['apnet_s2'].words[0] == '--config=configs/synthetic.py'
  assert runs['apnet_s2'].config.model.attention == 'spatial'


def test_weights_fit_the_network():
  weights = f'model.pretrained={tables.RESNET50_WEIGHTS}'
  runs = plan('table2', weights) + plan('table5', weights)
  sources = {run.variant: run.config.model.pretrained for run in runs}
  assert sources['apnet_c2'] == tables.RESNET50_WEIGHTS
  assert 'seresnet50' in sources['se_resnet50']
  assert 'densenet169' in sources['densenet169_apnet_c']
  others = plan('table5', 'model.pretrained=mine.npz')
  assert {run.config.model.pretrained for run in others} == {'mine.npz'}
  assert plan()[0].recipe != runs[0].recipe


def test_weights_are_those_of_one_training():
  """Weights of another training would favour a row."""
  runs = plan('table2', 'model.pretrained=hf://timm/resnet50.a1_in1k')
  sources = {run.variant: run.config.model.pretrained for run in runs}
  assert sources.pop('se_resnet50') == 'hf://timm/seresnet50.a1_in1k'
  assert set(sources.values()) == {'hf://timm/resnet50.a1_in1k'}
  table = ablations.chosen_rows(tables.TABLES['table5'], 'resnet101')
  override = 'model.pretrained=hf://timm/resnet50.a1_in1k'
  (run,) = ablation_plan.plan(table, CONFIG, [override], [0])
  assert run.config.model.pretrained == 'hf://timm/resnet101.a1_in1k'


@pytest.mark.parametrize(
  ('table', 'weights', 'row'),
  [
    ('table5', 'hf://timm/resnet50.a1_in1k', 'inception_v3'),
    ('table5', 'hf://timm/resnet50.a2_in1k', 'resnet101'),
    ('table5', f'{tables.RESNET50_WEIGHTS}@main', 'resnet101'),
    ('table2', 'hf://timm/resnet50.a2_in1k', 'se_resnet50'),
    ('table2', 'hf://timm/resnet101.tv_in1k', 'apnet_c0'),
  ],
)
def test_weights_that_do_not_fit_a_row_are_an_early_error(table, weights, row):
  with pytest.raises(UserError, match=f'{weights} does not fit the row {row}'):
    plan(table, f'model.pretrained={weights}')


def test_weights_of_the_networks_own_name_stay():
  weights = 'hf://timm/resnet101.a2_in1k'
  runs = plan(
    'figure5', f'model.pretrained={weights}', 'model.backbone=resnet101'
  )
  assert {run.config.model.pretrained for run in runs} == {weights}


def hash_of(*overrides, row=4):
  return plan('table2', *overrides)[row].hash


def test_a_hash_tells_what_changes_the_result():
  same = ('data.dir=elsewhere', 'data.cache=decoded', 'train.rematerialize')
  assert hash_of() == hash_of(*same)
  for other in ('train.epochs=3', 'eval.flip=False', 'model.reduction=8'):
    assert hash_of() != hash_of(other)
  # Level 0 has no radix.
  assert hash_of('model.radix=4', row=0) == hash_of(row=0)


def test_a_field_without_effect_changes_no_hash():
  unused = (
    'profile=other', 'eval.max_rank=20', 'eval.rerank_k1=9',
    'eval.rerank_lambda=0.5', 'train.circle_margin=0.4', 'augment.hue=0.2',
  )  # fmt: skip
  assert hash_of(*unused) == hash_of()
  with_circle_loss = ('train.circle_weight=1', 'train.circle_margin=0.4')
  assert hash_of(*with_circle_loss) != hash_of(with_circle_loss[0])
  config = ablation_plan.read_config([f'--config={CONFIG}'])
  config.model.reduction = 8
  for fields in ({'attention': 'none'}, {'levels': 0}, {'hidden': 8}):
    other = config.copy_and_resolve_references()
    other.model.update(fields)
    assert 'model.reduction' not in recipe.relevant_fields(other)
  assert recipe.relevant_fields(config)['model.reduction'] == 8


def test_a_field_that_only_some_rows_use_is_of_the_recipe():
  """Results with other values of it do not stand in one table."""
  usual = plan('recipes')[0].recipe
  assert plan('recipes', 'train.circle_margin=0.4')[0].recipe != usual
  without = ('model.attention=none', 'model.reduction=8')
  assert plan('table2', *without)[0].recipe != plan('table2')[0].recipe
  label = ('profile=other', 'eval.max_rank=20')
  assert plan('recipes', *label)[0].recipe == usual


@pytest.mark.parametrize(
  'override',
  [
    'hidden=16', 'multi_part=True', 'norm_after_split=True',
    'order=fine_to_coarse', 'radix=4', 'reduction=8', 'se_blocks=True',
    'sites=(4,)', 'split_attention=shared', 'stacked=True',
  ],
)  # fmt: skip
def test_another_network_for_all_rows_is_another_recipe(override):
  usual = plan('table2')
  others = plan('table2', f'model.{override}')
  assert {run.recipe for run in others}.isdisjoint({usual[0].recipe})
  assert len({run.recipe for run in others}) == 1


def test_the_hashes_of_the_records_hold():
  """A later version must not train them again."""
  record = ablation_runs.ROOT / 'docs/records/ablations/results.jsonl'
  lines = [*map(json.loads, record.read_text().splitlines())]
  runs = {line['configuration'] for line in lines}
  for line in lines:
    words = shlex.split(line['command'])
    if words[1] == 'train.py':
      fields = recipe.relevant_fields(ablation_plan.read_config(words[2:]))
      found = {recipe.digest(fields)}
      if fields.get('model.pretrained') == 'WORKDIR':  # of another recorded run
        found = {
          recipe.digest(fields | {'model.pretrained': f'run {run}'})
          for run in runs
        }
      assert line['configuration'] in found


def test_a_hash_does_not_depend_on_defaults():
  """A later version may add fields, whose defaults change no result."""
  config = ablation_plan.read_config([f'--config={CONFIG}'])
  fields = recipe.relevant_fields(config)
  assert fields == {'data.name': 'market1501'}
  config.model.levels = 1
  assert recipe.relevant_fields(config) == fields | {'model.levels': 1}


def test_a_network_of_two_tables_is_one_run():
  by_name = {run.variant: run for run in plan('figure5')}
  assert 'radix2' not in by_name
  assert by_name['apnet_c2'].hash == hash_of()


def test_a_recipe_changes_the_training_and_not_the_network():
  paper, *others = plan('recipes')
  assert paper.hash == hash_of()  # APNet-C_2 of Table II is not run again
  assert len({run.hash for run in others} | {paper.hash}) == 1 + len(others)
  assert {run.recipe for run in others} == {paper.recipe}  # one table
  usual = recipe.relevant_fields(paper.config)
  for run in others:
    fields = dict(RECIPES[run.variant])
    assert recipe.relevant_fields(run.config) == usual | fields


def test_folders_become_absolute(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  given = ['data.dir=a,b', 'train.epochs=3', 'data.allow_other_counts']
  assert ablation_plan.absolute_folders(given, 'market1501,msmt17') == [
    f'data.dir={tmp_path}/a,{tmp_path}/b', *given[1:],
  ]  # fmt: skip
  given = ['data.dir=a,b', 'data.prepared_dir=c, d']
  assert ablation_plan.absolute_folders(given, 'market1501') == [
    f'data.dir={tmp_path}/a,b', f'data.prepared_dir={tmp_path}/c, d',
  ]  # fmt: skip


def test_commas_separate_the_folders_of_several_data_sets(
  monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  for names, folders in (('duke', 'a,b'), ('duke,market', f'a,{tmp_path}/b')):
    overrides = (f'data.name={names}', 'data.dir=a,b')
    words = [f'--override={override}' for override in overrides]
    config = f'--config={ablation_runs.ROOT / CONFIG}'
    args = ablations.make_parser().parse_args(['table6', config, *words])
    (run, *_) = ablations.runs_of(args)
    assert run.config.data.dir == f'{tmp_path}/{folders}'


@pytest.mark.parametrize(
  ('config', 'override', 'message'),
  [
    (CONFIG, 'model.foo=3', 'foo'),
    (CONFIG, 'train.P=x', 'invalid literal'),
    (CONFIG, 'train.P=1', 'at least 2'),
    ('configs/none.py', 'train.P=4', '--config=configs/none.py does not exist'),
  ],
)
def test_mistakes_in_the_configuration(config, override, message):
  with pytest.raises(UserError, match=message):
    plan('table2', override, config=config)


# Runs


CARD = make_line()['card'] | {
  'diagnosis': {'hardest': ['0001_c1.jpg']},
  'verification': None,
}
# Writes what train.py writes, then does as told.
TRAIN = """
import json, os, signal, sys, time
workdir, then = sys.argv[-1].split('=')[1], sys.argv[1]
with open(workdir + '/count', 'a') as file:
  file.write('x')
json.dump({'num_classes': 3, 'fingerprint': 'abc', 'devices': '1 x cpu'},
          open(workdir + '/run.json', 'w'))
json.dump(json.loads(sys.argv[2]), open(workdir + '/result.json', 'w'))
print('trained')
sys.stdout.flush()
exec(then)
"""


@pytest.fixture
def trainer(monkeypatch):
  """A pretended train.py, whose last deed is the code in `then`."""
  told = {'then': ''}

  def command(run, workdir):
    arguments = (told['then'], json.dumps(CARD), f'--workdir={workdir}')
    return [sys.executable, '-S', '-c', TRAIN, *arguments]

  def evaluate(target, workdir, card):
    code = (
      'import os, sys; os.makedirs(os.path.dirname(sys.argv[2]), exist_ok=True)'
      '; open(sys.argv[2], "w").write(sys.argv[1])'
    )
    return [sys.executable, '-S', '-c', code, json.dumps(CARD), str(card)]

  monkeypatch.setattr(ablation_runs, 'train_command', command)
  monkeypatch.setattr(ablation_runs, 'evaluate_command', evaluate)
  monkeypatch.setattr(ablation_runs, 'commit', lambda: '1234')
  return told


@pytest.fixture
def results(tmp_path):
  return Results(tmp_path / 'results')


@pytest.fixture
def run():
  return plan('table2')[0]


def trainings(run, results):
  return len((results.workdir(run) / 'count').read_text())


def test_a_run_is_done_once(trainer, run, results):
  assert ablation_runs.do_run(run, [], results) == 'finished'
  assert ablation_runs.do_run(run, [], results) == 'done'
  assert trainings(run, results) == 1
  (line,) = results.read()
  assert line['variant'] == 'apnet_c0' and line['seed'] == 0
  assert line['configuration'] == run.hash and line['recipe'] == run.recipe
  assert line['commit'] == '1234' and '1 x cpu' in line['hardware']
  assert line['target'] is None and line['seconds'] >= 0
  assert 'diagnosis' not in line['card']  # it names images
  assert comparison.table_figures(line['card'])['mAP'] == 0.6
  assert (results.workdir(run) / 'log.txt').read_text() == 'trained\n'


def test_targets_are_evaluated_once(trainer, run, results, tmp_path):
  targets = [Target('duke', tmp_path / name) for name in ('a', 'b')]
  assert ablation_runs.do_run(run, [], results) == 'finished'
  assert ablation_runs.do_run(run, targets[:1], results) == 'finished'
  assert ablation_runs.do_run(run, targets, results) == 'finished'
  assert ablation_runs.do_run(run, targets, results) == 'done'
  assert trainings(run, results) == 1
  assert [line['target'] for line in results.read()] == [None, 'a', 'b']


def test_folders_of_one_name_hold_two_data_sets(
  trainer, run, results, tmp_path
):
  first, second = (
    Target(name, tmp_path / name / 'images') for name in ('duke', 'market')
  )
  assert ablation_runs.do_run(run, [first], results) == 'finished'
  assert ablation_runs.do_run(run, [second], results) == 'finished'
  assert ablation_runs.do_run(run, [first, second], results) == 'done'
  found = [(x['target'], x['target_dataset']) for x in results.read()]
  assert found == [
    (None, None), ('images', 'dukemtmc_reid'), ('images', 'market1501'),
  ]  # fmt: skip
  cards = (results.workdir(run) / 'evaluations').iterdir()
  assert {card.name for card in cards} == {
    'dukemtmc_reid-images.json', 'market1501-images.json',
  }  # fmt: skip


def test_lines_of_earlier_versions_count(run, results, tmp_path):
  line = make_line(
    target='images', card_dataset='dukemtmc_reid', configuration=run.hash
  )
  results.append(line)
  for name, known in (('duke', 1), ('dukemtmc_reid', 1), ('msmt17', 0)):
    assert results.has(run, Target(name, tmp_path / 'images')) == bool(known)
  assert not results.has(run, Target('duke', tmp_path / 'others'))
  assert not results.has(run)


def test_all_folders_of_training_images_are_named(
  trainer, results, monkeypatch
):
  (run, *_) = plan('table2', 'data.name=duke,market', 'data.dir=/x/a,/x/b/')
  assert ablation_runs.do_run(run, [], results) == 'finished'
  (line,) = results.read()
  assert line['images'] == 'a,b'


def test_a_failed_run_has_no_result_and_is_tried_again(trainer, run, results):
  trainer['then'] = 'sys.exit(3)'
  assert ablation_runs.do_run(run, [], results) == 'failed'
  assert results.read() == []
  trainer['then'] = ''
  assert ablation_runs.do_run(run, [], results) == 'finished'
  assert trainings(run, results) == 2


def test_a_signal_before_the_training_has_begun(trainer, run, results):
  """Python is still starting, and the signal itself ends it."""
  trainer['then'] = (
    'signal.signal(signal.SIGTERM, signal.SIG_DFL)\n'
    f'os.kill(os.getppid(), {signal.SIGTERM:d})\n'
    'time.sleep(20)'
  )
  with pytest.raises(ablation_runs.Interrupted) as error:
    ablation_runs.do_run(run, [], results)
  assert error.value.code == 143


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_the_run_goes_on_later(
  trainer, run, results, number
):
  before = signal.getsignal(number)
  trainer['then'] = (
    f'signal.signal({number:d}, lambda *_: sys.exit(128 + {number:d}))\n'
    f'os.kill(os.getppid(), {number:d})\n'
    'time.sleep(20)'
  )
  with pytest.raises(ablation_runs.Interrupted) as error:
    ablation_runs.do_run(run, [], results)
  assert error.value.code == 128 + number
  assert signal.getsignal(number) == before
  assert results.read() == []
  trainer['then'] = ''
  assert ablation_runs.do_run(run, [], results) == 'finished'
  assert len(results.read()) == 1


def test_a_signal_that_a_run_outlives_ends_the_command(trainer, run, results):
  """The run was about to end: its result is kept, and no other begins."""
  trainer['then'] = (
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    f'os.kill(os.getppid(), {signal.SIGTERM:d})\n'
    'time.sleep(0.1)'
  )
  with pytest.raises(ablation_runs.Interrupted) as error:
    ablation_runs.do_run(run, [], results)
  assert error.value.code == 143
  assert ablation_runs.do_run(run, [], results) == 'done'


def test_a_claimed_run_is_left_to_its_process(trainer, run, results):
  workdir = results.workdir(run)
  with ablation_runs.claim(workdir) as claimed:
    assert claimed is not None
    assert ablation_runs.is_claimed(workdir)
    assert ablation_runs.do_run(run, [], results) == 'claimed'
  assert not ablation_runs.is_claimed(workdir)
  assert ablation_runs.do_run(run, [], results) == 'finished'


def test_a_training_keeps_the_claim_when_its_starter_is_gone(run, results):
  """A shell leaves a process behind, which has inherited the locked file."""
  workdir = results.workdir(run)
  with ablation_runs.claim(workdir) as claimed:
    command = ['sh', '-c', f'sleep 20 & echo $! > {workdir}/pid']
    ablation_runs.execute(command, workdir / 'log.txt', claimed)
  left = int((workdir / 'pid').read_text())
  assert ablation_runs.is_claimed(workdir)
  os.kill(left, signal.SIGKILL)
  deadline = time.time() + 10
  while ablation_runs.is_claimed(workdir) and time.time() < deadline:
    time.sleep(0.01)
  assert not ablation_runs.is_claimed(workdir)


def test_the_time_of_killed_sessions_counts(tmp_path):
  sessions, file = tmp_path / 'sessions.jsonl', tmp_path / 'metrics.jsonl'
  for line in ({'start': 100}, {'end': 130}, {'start': 1000}):
    ablation_runs.append_line(sessions, line)
  file.touch()
  os.utime(file, (1012, 1012))
  os.utime(sessions, (1000, 1000))
  with ablation_runs.timed(sessions, tmp_path) as seconds:
    assert seconds() == 42


def test_a_line_that_was_cut_off_is_replaced(tmp_path):
  file = tmp_path / 'results.jsonl'
  assert ablation_runs.read_lines(file) == []
  ablation_runs.append_line(file, {'a': 1})
  with file.open('a') as cut:
    cut.write('{"a": 2, "b')
  assert ablation_runs.read_lines(file) == [{'a': 1}]
  ablation_runs.append_line(file, {'a': 3})
  assert ablation_runs.read_lines(file) == [{'a': 1}, {'a': 3}]
  file.write_text('{"a": 1}\n{"a": 2}')  # as an editor may leave it
  assert ablation_runs.read_lines(file) == [{'a': 1}, {'a': 2}]
  ablation_runs.append_line(file, {'a': 3})
  assert ablation_runs.read_lines(file) == [{'a': 1}, {'a': 2}, {'a': 3}]
  file.write_text('{\n{"a": 1}\n')
  with pytest.raises(UserError, match='results.jsonl is damaged'):
    ablation_runs.read_lines(file)


def test_results_tell_no_folders(tmp_path):
  run = plan('table2', 'data.dir=/my/images', 'data.image_size=(64,32)')[0]
  text = ablation_runs.shown(ablation_runs.train_command(run, tmp_path))
  assert text.startswith('python train.py --config=configs/market.py ')
  assert '--config.data.dir=DIR' in text
  assert "'--config.data.image_size=(64,32)'" in text  # as a shell needs it
  target = Target('duke', tmp_path / 'duke', allow_other_counts=True)
  evaluate = ablation_runs.evaluate_command(target, tmp_path, tmp_path / 'a')
  assert ablation_runs.shown(evaluate) == (
    'python eval.py --ckpt=DIR --dataset=duke --data_dir=DIR'
    ' --allow_other_counts'
  )
  card = CARD | {'network': {'pretrained': '/my/run'}}
  card['checkpoint'] = CARD['checkpoint'] | {
    'started_from': {'workdir': '/my/run', 'step': 3}
  }
  kept = json.dumps(ablation_runs.without_paths(card))
  assert '/my' not in kept and '"step": 3' in kept


# The command


@pytest.fixture
def command(trainer, monkeypatch, tmp_path):
  monkeypatch.setattr(ablations, 'check_images', lambda *_: None)
  return lambda *words: ablations.main([
    *words, f'--results={tmp_path}/results', '--seeds=0',
  ])  # fmt: skip


def test_a_dry_run_does_nothing(command, capsys, results):
  assert command('table6', '--dry_run') == 0
  printed = capsys.readouterr().out
  assert 'All runs: python train.py --config=configs/market.py' in printed
  assert printed.count(': to do') == 2
  assert '--config.model.levels=1\n' in printed
  assert not results.folder.exists()


def test_a_row_of_recipes_is_chosen_by_its_name(command, capsys):
  assert command('recipes', '--rows=apnet_c2,ema', '--dry_run') == 0
  printed = capsys.readouterr().out
  assert printed.count(': to do') == 2
  assert '  --config.train.ema_decay=0.99\n' in printed


def test_a_table_runs_and_then_is_done(command, capsys, results):
  assert command('table6', '--rows=apnet_c2') == 0
  assert command('table6', '--dry-run') == 0
  printed = capsys.readouterr().out
  assert printed.count(': done') == printed.count(': to do') == 1
  assert command('table6') == 0
  assert '2/2' in capsys.readouterr().out
  assert [line['variant'] for line in results.read()] == [
    'apnet_c2', 'apnet_c1',
  ]  # fmt: skip


def test_a_failed_run_fails_the_command(command, trainer, capsys):
  trainer['then'] = 'sys.exit(2)'
  assert command('table6') == 2
  assert capsys.readouterr().out.count('failed: ') == 2


def test_a_signal_is_the_exit_code(command, trainer, capsys):
  trainer['then'] = 'sys.exit(143)'
  assert command('table6') == 143
  message = 'interrupted; the same command continues where it stopped\n'
  assert message in capsys.readouterr().err


def test_an_interruption_between_runs_is_a_message(
  command, monkeypatch, capsys
):
  def interrupt(_):
    raise KeyboardInterrupt

  monkeypatch.setattr(ablations, 'train', interrupt)
  assert command('table6') == 130
  assert capsys.readouterr().err.startswith('interrupted; the same command')


def test_other_images_are_refused(monkeypatch, tmp_path, capsys):
  from data import listing

  images = type('Listing', (), {'fingerprint': 'now'})
  monkeypatch.setattr(listing, 'read', lambda data: images)
  line = make_line(recipe=plan('table6')[0].recipe)
  ablation_runs.append_line(tmp_path / 'results.jsonl', line)
  assert ablations.main(['table6', f'--results={tmp_path}']) == 2
  assert 'trained on other images (abc, now now)' in capsys.readouterr().err


def test_other_images_of_a_target_are_refused(monkeypatch, tmp_path, capsys):
  from data import listing

  def read(data):
    other = data.name == 'dukemtmc_reid'
    assert not other or data.dir == str(folder) and not data.ignore_cameras
    return type('Listing', (), {'fingerprint': 'now' if other else 'abc'})

  monkeypatch.setattr(listing, 'read', read)
  folder, results = tmp_path / 'duke', tmp_path / 'results'
  folder.mkdir()
  line = {'target_dataset': 'dukemtmc_reid', 'card_fingerprint': 'before'}
  recipe = plan('table7', 'data.ignore_cameras')[0].recipe
  ablation_runs.append_line(
    results / 'results.jsonl', make_line(target='duke', recipe=recipe, **line)
  )
  words = [
    'table7', '--override=data.ignore_cameras', f'--target=duke={folder}',
    f'--results={results}',
  ]  # fmt: skip
  assert ablations.main(words) == 2
  message = 'other images in a folder duke (before, now now)'
  assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['table2', '--rows=apnet_c9'], 'apnet_c9 not in apnet_c0, se_resnet50'),
    (['table2', '--device=h100'], '--device needs --dry-run'),
    (['table7'], 'give --target'),
    (['table7', '--target=duke'], 'as duke=DIR'),
    (['table7', '--target=duke=/none'], 'as duke=DIR'),
    (['table7', '--target=a=/tmp', '--target=b=/tmp'], 'the same name'),
    (['table7', '--target=nobody=/tmp'], "--target='nobody' is not one of"),
    (['table2', '--override=train.K=0'], 'at least 2'),
    (
      ['table2', '--override=train.epoch=3'],
      'error: --override=train.epoch: the configuration has no such field;',
    ),
    (
      ['table2', '--config=configs/synthetic.py:spatial'],
      'error: this configuration has no variants',
    ),
    (
      ['figure5', '--override=model.radix=4', '--dry-run'],
      'the rows apnet_c2 and radix4 would be the same training',
    ),
    (
      ['table2', '--override=model.se_blocks=True'],
      'the rows apnet_c0 and se_resnet50 would be the same',
    ),
    (
      ['recipes', '--override=train.clip_norm=5.0'],
      'the rows apnet_c2 and clip_norm would be the same',
    ),
    (['table3', '--device=h100'], '--device would have no effect'),
    (['table3', '--target=duke=/tmp'], '--target would have no effect'),
    (
      ['table3', '--config=configs/synthetic.py'],
      'config.model.backbone would have no effect',
    ),
  ],
)
def test_mistakes(command, capsys, words, message):
  assert command(*words) == 2
  assert message in capsys.readouterr().err


def test_wrong_seeds(capsys):
  for seeds in ('', 'x', '-1', '1,,2'):
    assert ablations.main(['table2', f'--seeds={seeds}', '--dry-run']) == 2
    assert 'give numbers from 0' in capsys.readouterr().err


def test_the_folder_of_results_may_be_in_the_home_folder():
  args = ablations.make_parser().parse_args(['table2', '--results=~/runs'])
  assert args.results == pathlib.Path.home() / 'runs'
  args = ablations.make_parser().parse_args(['table2'])
  assert args.results == pathlib.Path('runs/ablations').absolute()


def test_a_seed_that_is_given_twice_is_run_once():
  assert ablations.read_seeds('2,0,2') == [2, 0]


def test_table_3_is_counted(command, monkeypatch, results):
  counted = []
  monkeypatch.setattr(
    ablations.complexity,
    'measure',
    lambda name, model: counted.append(name) or {'network': name},
  )
  monkeypatch.setattr(ablations.complexity, 'format_table', lambda rows: '')
  assert command('table3') == 0
  assert counted == [row.variant for row in TABLES['table3'].rows]
  written = json.loads((results.folder / 'complexity.json').read_text())
  assert [entry['network'] for entry in written['networks']] == counted
  words = ['table3', '--override=model.reduction=8', '--rows=apnet_c1']
  assert command(*words, '--override=data.dir=/my/images') == 0
  written = json.loads((results.folder / 'complexity.json').read_text())
  program = 'python -m benchmarks.ablations'
  assert written['command'] == f'{program} {" ".join(words)}'


# The cost


class FakeFit:
  def __init__(self, memory, fits=True, bytes_from='compiler'):
    self.memory, self.fits, self.bytes_from = memory, fits, bytes_from

  def measure(self, program):
    assert program == 'train'
    return {
      'fits': self.fits,
      'memory': self.memory and {'total': self.memory},
      'batch': 80,
      'bytes_from': self.bytes_from,
      'roofline': {'images_per_second': 400.0, 'bound': 'bytes'},
    }


def test_hours_follow_from_the_roofline():
  cost = ablation_cost.cost_of(FakeFit(2 * 10**9), steps=36_000)
  assert cost.hours == pytest.approx(2) and cost.memory == 2 * 10**9
  assert str(cost) == '2.0 GB; at least 2.00 h'
  nothing = ablation_cost.cost_of(FakeFit(None, fits=False), steps=1)
  assert str(nothing) == 'not compiled, does not fit; -'
  assert ablation_cost.total_hours([cost, cost, nothing]) == pytest.approx(4)


def test_hours_by_bytes_of_the_text_are_an_estimate():
  fit = FakeFit(2 * 10**9, bytes_from='text')
  cost = ablation_cost.cost_of(fit, steps=36_000)
  assert str(cost) == '2.0 GB; about 2.00 h'


def test_the_size_of_a_training_without_images(tmp_path):
  config = ablation_plan.read_config([f'--config={CONFIG}'])
  config.data.dir = str(tmp_path / 'none')
  assert ablation_cost.training_size(config) == (751, 12_936 // 80)
  assert total_steps(config, 161) == 160 * 161
  config.train.steps = 7
  assert total_steps(config, 161) == 7
  config.data.name = 'synthetic'
  with pytest.raises(UserError, match='is missing'):
    ablation_cost.training_size(config)


@pytest.mark.parametrize(
  ('bytes_from', 'least'), [('compiler', 'at least'), ('text', 'about')]
)
def test_a_dry_run_compiles_each_network_once(
  command, monkeypatch, capsys, bytes_from, least
):
  compiled = []

  def compiler(device):
    assert device == 'h100'
    return lambda config: (
      compiled.append(config.model.levels)
      or ablation_cost.cost_of(
        FakeFit(10**9, bytes_from=bytes_from), steps=18_000
      )
    )

  monkeypatch.setattr(ablation_cost, 'compiler', compiler)
  words = ['table6', '--dry-run', '--device=h100', '--seeds=0,1']
  assert ablations.main(words) == 0
  assert compiled == [1, 2]
  assert f'4 runs take {least} 4.0 h' in capsys.readouterr().out
