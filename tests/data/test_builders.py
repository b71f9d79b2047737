"""Tests of the TFDS builders on their dummy data."""

import importlib
import pathlib

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata

from data import datasets, raw
from data.synthetic import layout as synthetic
from tests.data import make_dummy_data

ROOT = pathlib.Path(__file__).parents[2]
IMAGES = {'train': 6, 'query': 2, 'gallery': 8}
# Identities by split. Those of MSMT17's test half are renumbered; DukeMTMC-reID
# numbers distractors like people.
PIDS = {
  'msmt17/trainval': ({0, 1}, {1041, 1042}, {1041, 1042}),
  'msmt17/train': ({0, 1}, {1041, 1042}, {1041, 1042}),
  'dukemtmc_reid': ({1, 2}, {3, 4}, {3, 4, 5, 6}),
  'occluded_duke': ({1, 2}, {3, 4}, {3, 4, 5, 6}),
  'cuhk03_np/detected': ({1, 2}, {3, 4}, {3, 4}),
  'cuhk03_np/labeled': ({1, 2}, {3, 4}, {3, 4}),
}
WITH_SPECIAL = ({1, 2}, {3, 4}, {-1, 0, 3, 4})


@pytest.fixture(
  scope='module', params=datasets.LAYOUTS, ids=lambda layout: layout.name
)
def prepared(request, tmp_path_factory):
  """A builder that has prepared its dummy data, and its layout."""
  layout = request.param
  name = layout.dataset
  module = importlib.import_module(f'data.{name}.{name}_dataset_builder')
  builder = module.Builder(
    data_dir=tmp_path_factory.mktemp('prepared'),
    file_format='array_record',
    config=layout.variant or None,
  )
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=dummy_data(layout))
  )
  return builder, layout


def dummy_data(layout):
  return ROOT / 'data' / layout.dataset / 'dummy_data'


def read(builder, split):
  source = builder.as_data_source(
    split, decoders={'image': tfds.decode.SkipDecoding()}
  )
  return [source[i] for i in range(len(source))]


def expected_sizes(layout):
  # One image is in list_val.txt.
  return IMAGES | ({'train': 5} if layout.name == 'msmt17/train' else {})


def test_split_sizes(prepared):
  builder, layout = prepared
  sizes = {name: s.num_examples for name, s in builder.info.splits.items()}
  assert sizes == expected_sizes(layout)


def test_records_are_what_the_layout_reads(prepared):
  builder, layout = prepared
  splits = layout.read(dummy_data(layout)).splits
  for split, images in splits.items():
    found = {
      example['path'].decode(): (
        example['image'], example['pid'], example['camid'],
      )
      for example in read(builder, split)
    }  # fmt: skip
    assert found == {i.name: (i.read(), i.pid, i.camid) for i in images}


def test_identities(prepared):
  builder, layout = prepared
  pids = tuple({e['pid'] for e in read(builder, split)} for split in IMAGES)
  assert pids == PIDS.get(layout.name, WITH_SPECIAL)


def test_reads_at_random(prepared):
  source = prepared[0].as_data_source('gallery')
  backward = [source[i]['path'] for i in reversed(range(len(source)))]
  assert backward[::-1] == [example['path'] for example in source]
  assert source[3]['image'].shape == (32, 16, 3)


def test_folder_files_are_complete(prepared):
  """TFDS reads the files of the builder itself, not of its base class."""
  builder, layout = prepared
  folder = ROOT / 'data' / layout.dataset
  metadata = builder.get_metadata()
  assert metadata.description == (folder / 'README.md').read_text()
  assert metadata.citation == (folder / 'CITATIONS.bib').read_text()
  assert metadata.tags
  assert set(metadata.tags) <= set(dataset_metadata.valid_tags())


def test_every_folder_is_a_data_set():
  folders = {path.parent.name for path in (ROOT / 'data').glob('*/TAGS.txt')}
  assert folders == {layout.dataset for layout in datasets.LAYOUTS}
  assert set(IMAGES) == set(raw.SPLITS)


def test_dummy_data_is_what_its_script_makes(tmp_path, monkeypatch):
  source = make_dummy_data.DATA / 'market1501'
  monkeypatch.setattr(make_dummy_data, 'DATA', tmp_path)
  (tmp_path / 'market1501').symlink_to(source)
  make_dummy_data.main()
  for layout in datasets.LAYOUTS:
    if layout.dataset not in ('market1501', 'synthetic'):
      made = layout.read(tmp_path / layout.dataset / 'dummy_data').splits
      kept = layout.read(dummy_data(layout)).splits
      for split in raw.SPLITS:
        assert [i.read() for i in made[split]] == [
          i.read() for i in kept[split]
        ]


@pytest.mark.parametrize('exists', [False, True])
def test_synthetic_is_drawn_where_nothing_is(tmp_path, monkeypatch, exists):
  drawn = []

  def draw_dataset(root):
    drawn.append(root)
    for folder in raw.MARKET_FOLDERS.values():
      (root / folder).mkdir(parents=True)

  monkeypatch.setattr(synthetic.draw, 'draw_dataset', draw_dataset)
  root = tmp_path / 'set'
  if exists:
    root.mkdir()
  for _ in range(2):  # it is drawn the first time only
    assert synthetic.LAYOUT.locate(str(root)) == root
  assert drawn == [root]


def test_synthetic_is_not_drawn_over_other_files(tmp_path):
  (tmp_path / 'notes.txt').touch()
  with pytest.raises(ValueError, match='Delete or empty the folder'):
    synthetic.LAYOUT.locate(str(tmp_path))
  assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']
