"""Tests of search and verdicts; `test_commands.py` runs the commands."""

import re
import types

from absl import flags
from absl.testing import flagsaver
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from apnet_jax import cli
from apnet_jax.commands import compare, search
from apnet_jax.errors import UserError
from apnet_jax.images import find_images as images_below
from apnet_jax.inference import crops, image_files
from apnet_jax.inference.embedder import Embedder
from apnet_jax.retrieval import nearest, threshold
from apnet_jax.workdir import json_files, restore
from apnet_jax.workdir.checkpoints import Checkpoints
from tests.commands.running import in_this_process
from tests.fakes import small_config


def directions(degrees):
  angle = np.radians(np.array(degrees, np.float64))
  return np.stack([np.cos(angle), np.sin(angle)], 1)


class FakeEmbedder:
  """An embedder by a function `embed(images, on_error)`."""

  def __init__(self, embed, threshold):
    self._embed, self.threshold, self.about = embed, threshold, 'as given'

  def __call__(self, images, *, on_error, progress):
    return self._embed(images, on_error)


def network(threshold):
  """Returns a network for numbers as images: angles in degrees."""
  return FakeEmbedder(lambda images, _: directions(images), threshold)


def test_the_closest_come_first_and_ties_keep_their_order():
  queries, gallery = directions([0, 90]), directions([80, 10, 350, 0])
  found = list(nearest.search(queries, gallery, top=3))
  assert [rows.tolist() for rows, _ in found] == [[3, 1, 2], [0, 1, 3]]
  np.testing.assert_allclose(found[0][1][0], 1)


@pytest.mark.parametrize(
  ('threshold', 'word'), [(None, ''), (0.4, 'same person'), (0.6, 'another')]
)
def test_two_images_are_told_apart_by_the_threshold(threshold, word, capsys):
  compare.compare_images(network(threshold), 0, 60)
  out, err = capsys.readouterr()
  assert out.split('  ') == ['0.5000', f'{word}\n']
  assert 'as given' in err


def test_lines_say_if_nobody_is_found():
  other = threshold.OTHER_PERSON
  one = {
    'image': 'a.jpg', 'similarity': 0.3, 'verdict': other,
    'share_of_pairs_below': 0.5,
  }  # fmt: skip
  lines = list(search._lines('q.jpg', [one]))
  assert 'a.jpg' in lines[1] and 'not among these' in lines[2]
  assert len(list(search._lines('q.jpg', [one | {'verdict': None}]))) == 2


class Colours:
  """A model whose embedding is the mean colour of the left half."""

  def apply(self, variables, images, train):
    half = images[:, :, : images.shape[2] // 2].mean((1, 2))
    return types.SimpleNamespace(embedding=half, logits=half**2)


STORED = {
  'threshold': 0.25, 'wanted_fpr': 0.1, 'step': 1, 'feature': 'logits',
  'flip': False, 'dataset': 'market1501',
}  # fmt: skip


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  json_files.write_json(tmp_path / 'config.json', small_config().to_dict())
  run = {'num_classes': 2, 'fingerprint': 'x'}
  json_files.write_json(tmp_path / 'run.json', run)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {'w': np.zeros(1)})
  monkeypatch.setattr(
    restore,
    'restore_model',
    lambda *_: (1, Colours(), {'w': jnp.zeros(1)}),
  )
  return tmp_path


def two_colours(folder):
  """Writes an image, red on the left and blue on the right, and its mirror."""
  pixels = np.zeros((32, 16, 3), np.uint8)
  pixels[:, :8, 0] = pixels[:, 8:, 2] = 255
  Image.fromarray(pixels).save(folder / 'a.png')
  Image.fromarray(pixels[:, ::-1]).save(folder / 'b.png')
  return [folder / 'a.png', folder / 'b.png']


def test_images_are_embedded_as_the_run_evaluates(workdir):
  network = Embedder.load(workdir)
  assert network.threshold is None and '--choose_threshold' in network.about
  one, two = network(two_colours(workdir))
  np.testing.assert_allclose(np.linalg.norm(one), 1, rtol=1e-5)
  np.testing.assert_allclose(one, two, atol=1e-6)  # averages with mirror images


def test_or_as_they_were_for_the_stored_threshold(workdir):
  threshold.save(workdir, STORED)
  network = Embedder.load(workdir)
  assert network.threshold == 0.25
  one, two = network(two_colours(workdir))
  np.testing.assert_allclose(np.linalg.norm(one), 1, rtol=1e-5)
  assert one @ two < 0.95
  assert Embedder.load(workdir, threshold=0.5).threshold == 0.5


def test_the_threshold_of_another_checkpoint_is_not_used(workdir):
  threshold.save(workdir, STORED | {'step': 9})
  network = Embedder.load(workdir)
  assert network.threshold is None
  assert 'step 9 there, 1 here' in network.about


@pytest.mark.parametrize('given', [None, 0.5])
def test_the_mirror_image_can_be_left_out(workdir, given):
  threshold.save(workdir, STORED | {'feature': 'embedding', 'flip': True})
  both = Embedder.load(workdir, threshold=given)
  network = Embedder.load(workdir, threshold=given, flip=False)
  assert network.fingerprint != both.fingerprint
  one, two = network(two_colours(workdir))
  assert one @ two < 0.95
  assert (both.threshold, network.threshold) == (given or 0.25, given)
  if given is None:
    assert 'flip True there, False here' in network.about
  same = Embedder.load(workdir, threshold=given, flip=True)
  assert same.fingerprint == both.fingerprint
  assert same.threshold == both.threshold


@pytest.mark.parametrize('module', [search, compare])
def test_commands_leave_the_mirror_image_out(workdir, module, capfd):
  a, b = map(str, two_colours(workdir))
  arguments = [f'--ckpt={workdir}', a]
  arguments += [b] if module is compare else [f'--gallery={b}']
  similar = []
  with in_this_process(module.command) as run:
    for flags in ([], ['--noflip']):
      assert run(*arguments, *flags) == 0
      found = re.search(r'-?\d\.\d{3,}', capfd.readouterr().out)
      similar.append(float(found[0]))
  assert similar[0] > 0.999 and similar[1] < 0.95


# Unreadable images


def colours(paths, on_error):
  """Embeds each image by its mean colour."""
  frames = crops.frames(paths)
  pixels = np.stack([*crops.iterate(frames, (8, 4), on_error)])
  colour = pixels.mean((1, 2)) + 1e-3  # black has a direction, too
  return colour / np.linalg.norm(colour, axis=1, keepdims=True)


@pytest.fixture
def by_colour():
  """A network that reads files, and embeds them by their mean colour."""
  return FakeEmbedder(colours, None)


def write_colours(folder, **images):
  """Writes images of one colour each; one of None cannot be read."""
  folder.mkdir()
  for name, colour in images.items():
    path = folder / f'{name}.png'
    if colour is None:
      path.write_bytes(b'no image')
    else:
      Image.new('RGB', (4, 8), colour).save(path)
  return images_below(folder)


@pytest.fixture
def folders(tmp_path):
  """Queries and a gallery, each with an image that cannot be read."""
  return (
    write_colours(tmp_path / 'query', a='red', b=None, c='lime'),
    write_colours(
      tmp_path / 'gallery', d='lime', e=None, f='red', g='blue', h=None
    ),
  )


def test_unreadable_images_are_left_out_and_named(by_colour, folders, capsys):
  query, gallery = folders
  found = search.search_files(by_colour, *folders, 1, named=query[:1])
  closest = [(r['query'], r['found'][0]['image']) for r in found['results']]
  assert closest == [
    (str(query[0]), str(gallery[2])),
    (str(query[2]), str(gallery[0])),
  ]
  bad = [query[1], gallery[1], gallery[4]]
  assert list(found['unreadable']) == [str(path) for path in bad]
  warning = capsys.readouterr().err.splitlines()[-4:]
  assert warning[0] == (
    'warning: 3 of 8 images could not be read and were left out:'
  )
  for line, path in zip(warning[1:], bad):
    assert line.startswith(f'  {path} cannot be read: ')


def test_an_image_that_must_be_read_is_an_error(by_colour, folders):
  query, gallery = folders
  with pytest.raises(UserError, match='b.png cannot be read'):
    image_files.embed_files(by_colour, query, gallery)
  with pytest.raises(UserError, match='e.png cannot be read'):
    image_files.embed_files(
      by_colour, query, gallery, optional={query[1], gallery[4]}
    )
  with pytest.raises(UserError, match='b.png cannot be read'):
    search.search_files(by_colour, query, gallery, 1, named=query)
  with pytest.raises(UserError, match='e.png cannot be read'):
    search.search_files(by_colour, query[:1], gallery, 1, strict=True)
  with pytest.raises(UserError, match='none of 2 images can be read.*e.png'):
    image_files.embed_files(
      by_colour, query, [gallery[1], gallery[4]], optional={*query, *gallery}
    )


def test_two_images_must_be_read_even_if_the_gallery_has_them(
  by_colour, folders, capsys
):
  (red, broken, _), gallery = folders
  with pytest.raises(UserError, match='b.png cannot be read'):
    compare.compare_images(by_colour, red, broken, [*gallery, broken])
  with pytest.raises(UserError, match='e.png cannot be read'):
    compare.compare_images(by_colour, red, red, gallery, strict=True)
  compare.compare_images(by_colour, red, red, gallery)
  out, err = capsys.readouterr()
  assert out == '1.0000  \n' and '2 of 6 images could not be read' in err


def test_ten_are_named():
  bad = {f'{i}.jpg': f'{i}.jpg cannot be read' for i in range(12)}
  half = image_files.Embedded(['a'] * 3, np.zeros((3, 1)), bad)
  lines = image_files.describe_unreadable([half, half]).splitlines()
  assert '12 of 13 images' in lines[0]
  assert lines[1:] == [
    *(f'  {i}.jpg cannot be read' for i in range(10)), '  and 2 more'
  ]  # fmt: skip
  good = image_files.Embedded(['a'], np.zeros((1, 1)), {})
  assert image_files.describe_unreadable([good]) == ''


# Mistakes in a call, which are found before the network is loaded


@pytest.fixture(scope='module')
def call():
  """Runs the command in this process with --ckpt; returns its message."""
  before = set(flags.FLAGS)
  main = search.command()

  def call(*arguments):
    with flagsaver.flagsaver(), pytest.raises(UserError) as error:
      main(flags.FLAGS(['search', '--ckpt=nowhere', *map(str, arguments)]))
    return str(error.value)

  yield call
  flags.FLAGS.unparse_flags()
  for name in set(flags.FLAGS) - before:
    delattr(flags.FLAGS, name)


def test_mistakes_are_found_before_the_search(call, folders, tmp_path):
  query, gallery = (paths[0].parent for paths in folders)
  table = tmp_path / 'people.csv'
  table.write_text('path\n')
  for arguments in (f'--gallery={table}', query), (f'--gallery={query}', table):
    message = call(*arguments)
    assert message.startswith(f'{table} is a list of images')
    assert 'embed it and make an index' in message
  given = f'--gallery={gallery}', query
  assert 'nowhere' in call(*given)
  for output, message in (
    (query, 'is a folder: give the name of a file'),
    (table / 'found.json', f'is in {table}, which is not a folder'),
  ):
    assert call(f'--json={output}', *given) == f'--json={output} {message}.'


def test_a_file_in_a_new_folder_can_be_written(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for output in ('', 'a.json', 'new/below/a.json', tmp_path / 'new' / 'a.json'):
    cli.check_output(output)
  monkeypatch.setattr('os.access', lambda *_: False)
  with pytest.raises(UserError, match=f'--output=a: .* {tmp_path} is not wri'):
    cli.check_output('a', '--output')


# A scale without a threshold

CIRCLE = list(range(0, 360, 30))  # 12 people; a sixth of the pairs are 30 apart


def test_a_similarity_is_placed_among_pairs_of_the_gallery(capsys):
  found = search.search_files(network(None), [20], CIRCLE, 1)
  share = found['results'][0]['found'][0]['share_of_pairs_below']
  assert share == 1  # 10 degrees apart
  compare.compare_images(network(None), 0, 45, CIRCLE)
  out, err = capsys.readouterr()
  assert '0.985  above 100.0% of pairs  30\n' in out
  score, _, place, *_ = out.splitlines()[-1].split()
  assert score == '0.7071'
  assert float(place.rstrip('%')) == pytest.approx(100 * 9 / 11, abs=4)
  assert err.count('identities are unknown') == 2
  assert 'warning' not in err
  compare.compare_images(network(0.4), 0, 45, CIRCLE)
  out, err = capsys.readouterr()
  assert out.startswith('0.7071  same person  above ')


def test_a_collapsed_network_is_named(capsys):
  alike = list(range(10))
  search.search_files(network(0.9), [3], alike, 1)
  compare.compare_images(network(0.9), 3, 40, alike)
  err = capsys.readouterr().err
  assert err.count('warning: the network embeds all images alike') == 2
  assert err.count('Likely causes') == 2
  search.search_files(network(0.9), [3], CIRCLE, 1)
  assert 'warning' not in capsys.readouterr().err


def test_two_images_alone_have_no_scale(capsys):
  compare.compare_images(network(None), 0, 10)
  out, err = capsys.readouterr()
  assert out == '0.9848  \n' and '--gallery=FOLDER (images of other' in err
  assert 'warning: a similarity above 0.95 proves little' in err
  compare.compare_images(network(None), 0, 20)  # 0.94
  assert 'warning' not in capsys.readouterr().err
  compare.compare_images(network(0.5), 0, 10)
  assert '--gallery' not in capsys.readouterr().err


def test_a_small_gallery_has_no_scale(capsys):
  found = search.search_files(network(None), [3], list(range(6)), 1)
  assert found['results'][0]['found'][0]['share_of_pairs_below'] is None
  out, err = capsys.readouterr()
  assert 'of pairs' not in out and 'too few images' in err
