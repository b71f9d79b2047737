import json
import pathlib
import shutil
import struct

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from apnet_jax.commands import pack as pack_command
from apnet_jax.commands import push_to_hub
from apnet_jax.config import get_config
from apnet_jax.errors import UserError
from apnet_jax.inference import model_card, packing
from apnet_jax.inference.embedder import Embedder
from apnet_jax.inference.packing import pack_network
from apnet_jax.models.torch_weights import to_state_dict
from apnet_jax.retrieval import threshold
from apnet_jax.training import pretrained, recipe
from apnet_jax.workdir import json_files, pack, run_files
from apnet_jax.workdir.checkpoints import Checkpoints, open_for_reading
from tests import hub_server
from tests.commands.running import in_this_process
from tests.inference import networks

IMAGE = np.random.default_rng(1).integers(0, 256, (50, 20, 3), np.uint8)


@pytest.fixture(scope='module')
def run(tiny_networks, tmp_path_factory):
  """A workdir with a threshold and a result card."""
  folder = tmp_path_factory.mktemp('packing') / 'run'
  folder.mkdir()
  networks.write_workdir(folder)
  threshold.save(folder, networks.THRESHOLD)
  card = {'checkpoint': {'step': networks.STEP}, 'figures': {'mAP': 0.5}}
  json_files.write_json(folder / 'result.json', card)
  return folder


@pytest.fixture(scope='module')
def packed(run):
  path = run.parent / 'tiny.apnet'
  pack_network(run, path)
  return path


def test_a_packed_network_replaces_its_workdir(run, packed):
  theirs, ours = Embedder.load(run), Embedder.load(packed)
  np.testing.assert_array_equal(ours(IMAGE), theirs(IMAGE))
  assert ours.fingerprint == theirs.fingerprint
  assert (ours.threshold, ours.about) == (theirs.threshold, theirs.about)
  assert run_files.load_run(packed) == run_files.load_run(run)
  a, b = pretrained.read_workdir(packed), pretrained.read_workdir(run)
  assert a.step == b.step == networks.STEP
  for name in a.state_dict.keys() | b.state_dict:
    np.testing.assert_array_equal(a.state_dict[name], b.state_dict[name])
  assert pretrained.is_workdir(str(packed))
  started = pretrained.started_from(str(packed), a)
  assert started['step'] == networks.STEP
  again = packed.with_name('again.apnet')
  pack_network(packed, again)
  assert Embedder.load(again).fingerprint == ours.fingerprint


def test_of_a_run_that_averages_its_weights_the_average_is_packed(
  run, tmp_path
):
  folder, average = tmp_path / 'run', Embedder.load(run).variables
  folder.mkdir()
  config = run_files.load_config(run)
  config.train.ema_decay = 0.9
  json_files.write_json(folder / 'config.json', config.to_dict())
  shutil.copy(run / 'run.json', folder)
  last = jax.tree.map(np.zeros_like, average)
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(networks.STEP, {**last, 'average': average})
  packed = tmp_path / 'a.apnet'
  pack_network(folder, packed)
  assert Embedder.load(folder).fingerprint == Embedder.load(packed).fingerprint
  packed_weights = pretrained.read_workdir(packed).state_dict
  chex.assert_trees_all_equal(packed_weights, to_state_dict(average))


def test_a_file_that_is_replaced_is_said(run, tmp_path, capsys):
  arguments = f'--ckpt={run}', f'--output={tmp_path}/a.apnet'
  with in_this_process(pack_command.command) as pack_it:
    assert pack_it(*arguments) == 0
    first = capsys.readouterr().out
    assert pack_it(*arguments) == 0
  assert first.startswith(f'wrote {tmp_path}/a.apnet: ')
  again = first.replace('wrote', 'replaced', 1)
  assert capsys.readouterr().out == again


def test_a_packed_network_comes_from_the_hub(packed, tmp_path, monkeypatch):
  file = tmp_path / 'network.apnet'
  file.write_bytes(packed.read_bytes())
  files = {'owner/name': [file]}
  with hub_server.serving(files, tmp_path / 'cache', monkeypatch) as server:
    embedder = Embedder.load('hf://owner/name')
    source = 'hf://owner/name/network.apnet'  # of a fine-tuning
    assert pretrained.read(source, {}).step == networks.STEP
    assert recipe.of_source(source) == recipe.of_source(str(packed))
    message = (
      'owner/other cannot be downloaded.*: there is no repository owner/other,'
      r' or it is private and you are not logged in \(`hf auth login`\)\.$'
    )
    with pytest.raises(UserError, match=message):
      Embedder.load('hf://owner/other')
    server.gated.add('owner/terms')
    with pytest.raises(UserError, match='owner/terms is open only to those'):
      Embedder.load('hf://owner/terms')
    with pytest.raises(UserError, match='owner/name has no file x.apnet.$'):
      Embedder.load('hf://owner/name/x.apnet')
  assert embedder.fingerprint == Embedder.load(packed).fingerprint


def test_a_published_network_is_the_same(run, packed, tmp_path, monkeypatch):
  with hub_server.serving({}, tmp_path / 'cache', monkeypatch) as server:
    url = push_to_hub.push(run, 'last', 'owner/name', private=True)
    with pytest.raises(UserError, match='a b cannot be uploaded'):
      push_to_hub.push(run, 'last', 'a b', private=True)
  assert url.endswith('/owner/name')
  (created,) = server.created
  assert created['name'] == 'name' and created['visibility'] == 'private'
  assert server.uploaded.keys() == {'network.apnet', 'README.md'}
  again = tmp_path / 'again.apnet'
  again.write_bytes(server.uploaded['network.apnet'])
  assert Embedder.load(again).fingerprint == Embedder.load(packed).fingerprint
  assert b'Intended use' in server.uploaded['README.md']


def test_a_public_repository_needs_the_flag(run, tmp_path, monkeypatch):
  with hub_server.serving({}, tmp_path / 'cache', monkeypatch) as server:
    server.public.add('owner/name')
    message = 'owner/name cannot be uploaded.*: it is public. Give --public'
    with pytest.raises(UserError, match=message):
      push_to_hub.push(run, 'last', 'owner/name', private=True)
    assert not server.uploaded
    push_to_hub.push(run, 'last', 'owner/name', private=False)
    assert server.uploaded


def test_places_stay_behind(packed):
  config = run_files.load_config(packed)
  assert config.data.dir == config.data.prepared_dir == ''
  assert config.eval.expected_curve == ''
  assert b'/somewhere' not in packed.read_bytes()
  prepared = pack.read_part(packed, pack.PREPROCESSING)
  assert prepared['height_width'] == [32, 16] and len(prepared['mean']) == 3
  assert pack.read_part(packed, 'result.json')['figures'] == {'mAP': 0.5}


@pytest.mark.parametrize(
  ('source', 'name'),
  [
    ('/somewhere/d/people', 'people'),
    ('/somewhere/d/weights.pth', 'weights.pth'),
    ('hf://owner/somebody', 'hf://owner/somebody'),
    ('.', '.'),  # not '', which means random weights
  ],
)
def test_places_of_what_it_started_from_stay_behind(
  run, packed, tmp_path, source, name
):
  workdir, path = tmp_path / 'run', tmp_path / 'tuned.apnet'
  shutil.copytree(run, workdir)
  config, facts = run_files.load_config(run), run_files.load_run(run)
  config.model.pretrained = source
  json_files.write_json(workdir / 'config.json', config.to_dict())
  for kind in ('workdir', 'weights'):
    started = {kind: source, 'trained_on': {'dataset': 'msmt17/train'}}
    facts |= {'started_from': started, recipe.SOURCE_RECIPE: 'a1b2'}
    json_files.write_json(workdir / 'run.json', facts)
    result = {
      'checkpoint': {'step': networks.STEP, 'started_from': started},
      'figures': {'mAP': 0.5},
      'network': {'pretrained': source},
    }
    json_files.write_json(workdir / 'result.json', result)
    parts = pack_network(workdir, path)
    assert b'/somewhere' not in path.read_bytes()
    text = model_card.text(parts)
    assert '/somewhere' not in text and f"'{kind}': '{name}'" in text
    kept = started | {kind: name}
    assert run_files.load_config(path).model.pretrained == name
    assert run_files.load_run(path)['started_from'] == kept
    card = pack.read_part(path, 'result.json')
    assert card['checkpoint']['started_from'] == kept
    assert card['network'] == {'pretrained': name}
  assert Embedder.load(path).fingerprint == Embedder.load(packed).fingerprint
  assert recipe.of_source(str(path)) == recipe.of_source(str(workdir))
  weights = pretrained.read_workdir(path)
  assert weights.step == networks.STEP and weights.state_dict


def test_a_packed_network_chooses_no_folders(packed, tmp_path):
  path = tmp_path / 'x.apnet'
  path.write_bytes(packed.read_bytes())

  def name_folders(_, texts):
    config = json.loads(texts['config.json'])
    config['compilation_cache_dir'] = str(tmp_path / 'programs')
    config['data'].update(dir=str(tmp_path), prepared_dir=str(tmp_path))
    texts['config.json'] = json.dumps(config)

  rewrite(path, signed(name_folders))
  for load in (run_files.load_config, run_files.load_full_config):
    config, usual = load(path), get_config()
    assert config.compilation_cache_dir == usual.compilation_cache_dir
    assert config.data.dir == config.data.prepared_dir == ''
    assert config.model.to_dict() == load(packed).model.to_dict()


def test_what_belongs_to_another_checkpoint_stays_behind(
  tiny_networks, tmp_path
):
  networks.write_workdir(tmp_path)
  threshold.save(tmp_path, networks.THRESHOLD | {'step': 1})
  card = {'checkpoint': {'step': 1}}
  json_files.write_json(tmp_path / 'result.json', card)
  parts = pack_network(tmp_path, tmp_path / 'a.apnet')
  assert parts.keys() == {
    'checkpoint.json', 'preprocessing.json', 'config.json', 'run.json',
  }  # fmt: skip


def test_a_card_names_the_embedding_that_a_threshold_was_chosen_for(
  tiny_networks, tmp_path
):
  config, _ = networks.write_workdir(tmp_path)
  other = {'feature': 'logits', 'flip': not config.eval.flip}
  for step in (networks.STEP, 1):
    threshold.save(tmp_path, networks.THRESHOLD | other | {'step': step})
    parts = packing.collect(tmp_path, networks.STEP, 'last')
    settings = Embedder.load(tmp_path).settings
    prepared = parts[pack.PREPROCESSING]
    assert prepared['feature'] == settings['feature']
    assert prepared['average_with_mirror_image'] == settings['flip']
    assert (settings['feature'] == 'logits') == (step == networks.STEP)
    assert f'| embedding | `{settings["feature"]}`' in model_card.text(parts)
    kept = parts['config.json']['eval']  # those of the run
    assert kept['feature'] == 'embedding' and kept['flip'] == config.eval.flip


def test_a_card_without_mirror_images_has_no_threshold_with_them(
  tiny_networks, tmp_path
):
  networks.write_workdir(tmp_path)
  threshold.save(tmp_path, networks.THRESHOLD)
  rules = {'flip': True, 'ap': 'step'}
  card = {
    'dataset': 'noise', 'checkpoint': {'step': networks.STEP},
    'figures': {'mAP': 0.5}, 'protocol': rules,
  }  # fmt: skip
  json_files.write_json(tmp_path / 'result.json', card)
  for flip in (None, True, False):
    parts = packing.collect(tmp_path, networks.STEP, 'last', flip)
    text, with_mirror = model_card.text(parts), flip is not False
    assert parts[pack.PREPROCESSING]['average_with_mirror_image'] == with_mirror
    assert ('Threshold 0.25' in text) == with_mirror
    assert ('another `flip` than these results' in text) != with_mirror


def test_the_best_must_have_been_packed(run, packed, tmp_path):
  with pytest.raises(UserError, match='holds the last checkpoint'):
    Embedder.load(packed, which='best')
  best = tmp_path / 'best.apnet'
  pack_network(run, best, 'best')
  Embedder.load(best, which='best')
  with open_for_reading(best) as checkpoints:
    assert checkpoints.chosen('last') == 'best'


def rewrite(path, change):
  """Writes a packed network again, with its arrays and texts changed."""
  header = path.read_bytes()
  (length,) = struct.unpack('<Q', header[:8])
  texts = json.loads(header[8 : 8 + length])['__metadata__']
  arrays = load_file(path)
  change(arrays, texts)
  save_file(arrays, path, texts)


def change_weight(arrays, texts):
  name = max(arrays)
  arrays[name] = arrays[name] + 1


def change_config(arrays, texts):
  texts['config.json'] = texts['config.json'].replace(
    '"flip": true', '"flip": 1'
  )


def drop_array(arrays, texts):
  arrays.pop(max(arrays))


def other_network(arrays, texts):
  change_weight(arrays, texts)
  arrays['params/more'] = np.zeros(1, np.float32)


def signed(change):
  """Returns the change, after which the digests are those of the content."""

  def change_and_sign(arrays, texts):
    change(arrays, texts)
    digest = texts.pop('digest')
    texts['weights'] = pack.weights_digest(arrays)
    texts['digest'] = pack._digest(texts)
    assert texts['digest'] != digest

  return change_and_sign


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (change_weight, 'it was changed after it was packed'),
    (change_config, 'it was changed after it was packed'),
    (drop_array, 'it was changed after it was packed'),
    (signed(other_network), '1 of its arrays do not belong.*params/more'),
    (lambda _, texts: texts.update(apnet='1'), "has version '1'"),
    (lambda _, texts: texts.clear(), 'a file of weights, not a network'),
    (
      signed(lambda _, texts: texts.update({'checkpoint.json': '{}'})),
      'its checkpoint is {}',
    ),
    (lambda _, texts: texts.pop('run.json'), 'it was changed after it was'),
    (signed(lambda _, texts: texts.pop('run.json')), 'run.json is missing'),
    (
      signed(lambda _, texts: texts.update({'config.json': '{'})),
      'config.json cannot be read as JSON',
    ),
    (
      signed(lambda _, texts: texts.update({'run.json': '[]'})),
      'run.json is damaged: it holds no fields',
    ),
    (
      signed(lambda _, texts: texts.update({'threshold.json': '""'})),
      'threshold.json is damaged: it holds no fields',
    ),
    (
      signed(lambda _, texts: texts.update({'threshold.json': ''})),
      'threshold.json cannot be read as JSON',
    ),
  ],
)
def test_a_changed_file_is_refused(packed, change, message, tmp_path):
  path = tmp_path / 'x.apnet'
  path.write_bytes(packed.read_bytes())
  rewrite(path, change)
  with pytest.raises(UserError, match=message):
    Embedder.load(path)


def test_a_file_cut_off_is_refused(packed, tmp_path):
  path, whole = tmp_path / 'x.apnet', packed.read_bytes()
  for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:length])
    with pytest.raises(UserError, match='x.apnet cannot be read'):
      Embedder.load(path)
  with pytest.raises(UserError, match='nowhere.apnet is not a file'):
    Embedder.load(tmp_path / 'nowhere.apnet')


def test_nothing_half_written_is_left(run, tmp_path, monkeypatch):
  with pytest.raises(UserError, match='must end in .apnet'):
    pack_network(run, tmp_path / 'x.safetensors')

  def fail(path, target):
    assert path.stat().st_size and not target.exists()
    raise OSError('No space left on device')

  monkeypatch.setattr(pathlib.Path, 'replace', fail)
  with pytest.raises(OSError, match='No space'):
    pack_network(run, tmp_path / 'x.apnet')
  assert not list(tmp_path.iterdir())
