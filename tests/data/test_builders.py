"""The TFDS builders, on their dummy data."""

import pathlib

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata

from data import pipeline, reid_builder
from data.market1501 import market1501_dataset_builder
from data.synthetic import synthetic_dataset_builder

BUILDERS = {
  'market1501': market1501_dataset_builder.Builder,
  'synthetic': synthetic_dataset_builder.Builder,
}
IMAGES = {'train': 6, 'query': 2, 'gallery': 8}


@pytest.fixture(scope='module', params=BUILDERS)
def prepared(request, tmp_path_factory):
  """A builder that has prepared its dummy data, and the raw folder."""
  builder_class = BUILDERS[request.param]
  root = pathlib.Path(builder_class.code_path).parent / 'dummy_data'
  builder = builder_class(
    data_dir=tmp_path_factory.mktemp('prepared'), file_format='array_record'
  )
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=root)
  )
  return builder, root


def read(builder, split):
  source = builder.as_data_source(
    split, decoders={'image': tfds.decode.SkipDecoding()}
  )
  return [source[i] for i in range(len(source))]


def test_split_sizes(prepared):
  builder, _ = prepared
  sizes = {name: s.num_examples for name, s in builder.info.splits.items()}
  assert sizes == IMAGES


def test_bytes_are_those_of_the_raw_files(prepared):
  builder, root = prepared
  for split in IMAGES:
    folder = market1501_dataset_builder.FOLDERS[split]
    found = {e['path'].decode(): e['image'] for e in read(builder, split)}
    assert found == {
      f'{folder}/{path.name}': path.read_bytes()
      for path in (root / folder).iterdir()
    }


def test_labels_are_those_of_the_file_names(prepared):
  builder, _ = prepared
  for split in IMAGES:
    for example in read(builder, split):
      name = pathlib.Path(example['path'].decode()).name
      pid, camera = name.split('s')[0].split('_c')
      assert (example['pid'], example['camid']) == (int(pid), int(camera) - 1)
  pids = {split: {e['pid'] for e in read(builder, split)} for split in IMAGES}
  assert pids == {'train': {1, 2}, 'query': {3, 4}, 'gallery': {-1, 0, 3, 4}}


def test_reads_at_random(prepared):
  source = prepared[0].as_data_source('gallery')
  backward = [source[i]['path'] for i in reversed(range(len(source)))]
  assert backward[::-1] == [example['path'] for example in source]
  assert source[3]['image'].shape == (32, 16, 3)


def test_folder_files_are_complete(prepared):
  """And those of the builder itself, not of the one it inherits from."""
  builder, root = prepared
  metadata = builder.get_metadata()
  assert metadata.description == (root.parent / 'README.md').read_text()
  assert metadata.citation == (root.parent / 'CITATIONS.bib').read_text()
  assert metadata.tags
  assert set(metadata.tags) <= set(dataset_metadata.valid_tags())


def test_every_data_set_is_tested():
  assert set(BUILDERS) == set(pipeline.DATASETS)
  assert set(IMAGES) == set(reid_builder.SPLITS)


@pytest.mark.parametrize('exists', [False, True])
def test_synthetic_is_drawn_where_nothing_is(tmp_path, monkeypatch, exists):
  drawn = []

  def draw_dataset(root):
    drawn.append(root)
    for folder in market1501_dataset_builder.FOLDERS.values():
      (root / folder).mkdir(parents=True)

  draw = synthetic_dataset_builder.draw
  monkeypatch.setattr(draw, 'draw_dataset', draw_dataset)
  root = tmp_path / 'set'
  if exists:
    root.mkdir()
  for _ in range(2):  # the second time it is there
    assert synthetic_dataset_builder.Builder.locate(str(root)) == root
  assert drawn == [root]


def test_synthetic_is_not_drawn_over_other_files(tmp_path):
  (tmp_path / 'notes.txt').touch()
  with pytest.raises(ValueError, match='Delete or empty the folder'):
    synthetic_dataset_builder.Builder.locate(str(tmp_path))
  assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']
