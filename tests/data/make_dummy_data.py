"""Makes the `dummy_data` of the benchmarks from that of data/market1501.

These are drawn images in the layouts of the real data sets: 6 training images
of two identities, 2 queries, 8 gallery images. Run it in the project's folder:

  python -m tests.data.make_dummy_data
"""

import pathlib
import shutil

import h5py
import numpy as np
from PIL import Image
import scipy.io

from data import raw
from data.market1501 import layout as market1501

DATA = pathlib.Path(__file__).parents[2] / 'data'
# File names by split, as in DukeMTMC-reID. Identities 5 and 6 are distractors.
DUKE = {
  'train': ['0001_c2_f0046182', '0001_c2_f0046302', '0001_c5_f0051341',
            '0002_c1_f0044158', '0002_c1_f0044278', '0002_c8_f0055412'],
  'query': ['0003_c1_f0057890', '0004_c2_f0060001'],
  'gallery': ['0003_c1_f0058010', '0003_c1_f0058130', '0003_c7_f0080099',
              '0004_c2_f0060121', '0004_c2_f0060241', '0004_c6_f0071500',
              '0005_c3_f0060999', '0006_c4_f0061999'],
}  # fmt: skip
# Camera pair, person of this pair, view, number. Pair 1 has identities 1 and 2.
CUHK03 = {
  'train': [(1, 1, 1, 1), (1, 1, 1, 2), (1, 1, 2, 6),
            (1, 2, 1, 1), (1, 2, 2, 6), (1, 2, 2, 7)],
  'query': [(2, 1, 1, 1), (2, 2, 2, 6)],
  'gallery': [(2, 1, 1, 2), (2, 1, 2, 6), (2, 1, 2, 7), (2, 1, 2, 8),
              (2, 2, 1, 1), (2, 2, 1, 2), (2, 2, 1, 3), (2, 2, 2, 7)],
}  # fmt: skip
# Identity in its half, from 0; number; camera.
MSMT17 = {
  'train': [(0, 0, 1), (0, 1, 1), (0, 2, 9), (1, 0, 4), (1, 1, 15)],
  'val': [(1, 2, 4)],
  'query': [(0, 0, 2), (1, 0, 3)],
  'gallery': [(0, 1, 2), (0, 2, 5), (0, 3, 14), (1, 1, 3), (1, 2, 3),
              (1, 3, 7), (0, 4, 8), (1, 4, 12)],
}  # fmt: skip


def main() -> None:
  images = market1501.LAYOUT.read(DATA / 'market1501' / 'dummy_data').splits
  for name in ('dukemtmc_reid', 'occluded_duke'):
    write_duke(fresh(name), images)
  write_cuhk03(fresh('cuhk03_np'), images)
  write_msmt17(fresh('msmt17'), images)
  write_folder(fresh('folder'), images)


def fresh(name: str) -> pathlib.Path:
  root = DATA / name / 'dummy_data'
  shutil.rmtree(root, ignore_errors=True)
  root.mkdir(parents=True)
  return root


def copy(image: raw.RawImage, path: pathlib.Path) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  shutil.copyfile(image.path, path)


def write_duke(root: pathlib.Path, images: raw.Splits) -> None:
  for split, names in DUKE.items():
    for image, name in zip(images[split], names, strict=True):
      copy(image, root / raw.MARKET_FOLDERS[split] / f'{name}.jpg')


def write_cuhk03(root: pathlib.Path, images: raw.Splits) -> None:
  """Writes the release and its split with the axes and types of MATLAB."""
  pixels, rows, names, labels = {}, {}, [], []
  for split, places in CUHK03.items():
    rows[f'{split}_idx'] = np.arange(len(places)) + len(names) + 1.0
    for image, place in zip(images[split], places, strict=True):
      pair, person, view, number = place
      names.append(f'{pair}_{person:03d}_{view}_{number:02d}.png')
      labels.append(2 * (pair - 1) + person)
      with Image.open(image.path) as opened:
        pixels[pair, person, number] = np.asarray(opened)
  for boxes in ('detected', 'labeled'):
    filelist = np.array(names, object)[:, None]
    path = root / f'cuhk03_new_protocol_config_{boxes}.mat'
    scipy.io.savemat(
      path,
      {**rows, 'filelist': filelist, 'labels': np.array(labels)[:, None]},
      do_compression=True,
    )
    with path.open('r+b') as file:  # instead of a header with the date
      file.write(b'MATLAB 5.0 MAT-file, drawn data'.ljust(116))
  (root / 'cuhk03_release').mkdir()
  with h5py.File(root / 'cuhk03_release' / 'cuhk-03.mat', 'w') as file:
    for boxes in ('detected', 'labeled'):
      file[boxes] = cells(file, boxes, pixels)


def cells(file: h5py.File, boxes: str, pixels: dict) -> np.ndarray:
  """Returns references [1, pairs] to references [10, people] to images."""
  pairs = np.empty((1, 5), h5py.ref_dtype)
  for pair in range(1, 6):
    people = np.empty((10, 2), h5py.ref_dtype)
    for number in range(10):
      for person in range(2):
        image = pixels.get((pair, person + 1, number + 1))
        # MATLAB saves this for an empty cell.
        value = np.zeros(2, np.uint64) if image is None else image.T
        name = f'#refs#/{boxes}{pair}{person}{number}'
        people[number, person] = file.create_dataset(name, data=value).ref
    name = f'#refs#/{boxes}{pair}'
    pairs[0, pair - 1] = file.create_dataset(name, data=people).ref
  return pairs


def write_msmt17(root: pathlib.Path, images: raw.Splits) -> None:
  train = iter(images['train'])
  sources = {'train': train, 'val': train, 'query': iter(images['query'])}
  sources['gallery'] = iter(images['gallery'])
  for list_name, places in MSMT17.items():
    folder = 'train' if list_name in ('train', 'val') else 'test'
    lines = []
    for pid, number, camera in places:
      name = (
        f'{pid:04d}/{pid:04d}_{number:03d}_{camera:02d}_0303morning_'
        f'{number:04d}_0.jpg'
      )
      copy(next(sources[list_name]), root / folder / name)
      lines.append(f'{name} {pid}\n')
    (root / f'list_{list_name}.txt').write_text(''.join(lines))


def write_folder(root: pathlib.Path, images: raw.Splits) -> None:
  lines = ['path,pid,camid,split,role\n']
  roles = {0: 'distractor', -1: 'junk'}
  for split in raw.SPLITS:
    for number, image in enumerate(images[split]):
      name = f'images/{split}{number}.jpg'
      copy(image, root / name)
      role = roles.get(image.pid, 'person')
      lines.append(f'{name},{image.pid},{image.camid},{split},{role}\n')
  (root / 'people.csv').write_text(''.join(lines))


if __name__ == '__main__':
  main()
