"""Market-1501: 1,501 identities, six cameras in front of a supermarket."""

from collections.abc import Mapping
import pathlib

from data import reid_builder

# Folder of each split, and the folder names that copies of the data set have.
FOLDERS = {
  'train': 'bounding_box_train',
  'query': 'query',
  'gallery': 'bounding_box_test',
}
NESTED = ('Market-1501-v15.09.15', 'market1501', 'Market-1501')
HOW_TO_GET_IT = """\
Market-1501 has to be fetched by hand, from the page of its authors
(https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html), and unpacked.
Then set --config.data.dir to the folder Market-1501-v15.09.15 or its parent.
Any other images in this layout work as well: data/README.md."""


class Builder(reid_builder.ReidBuilder):
  """Builder of Market-1501, and of anything in its layout."""

  MANUAL_DOWNLOAD_INSTRUCTIONS = HOW_TO_GET_IT
  RELEASE_NOTES = {'1.0.0': 'Initial release.'}

  @classmethod
  def locate(cls, directory: str) -> pathlib.Path:
    return reid_builder.find_root(
      directory, FOLDERS.values(), NESTED, cls.MANUAL_DOWNLOAD_INSTRUCTIONS
    )

  @classmethod
  def read_splits(
    cls, root: pathlib.Path
  ) -> Mapping[str, list[reid_builder.RawImage]]:
    splits = {
      split: reid_builder.read_market_folder(root / folder)
      for split, folder in FOLDERS.items()
    }
    for image in (*splits['train'], *splits['query']):
      if image.pid == reid_builder.JUNK_PID:
        raise ValueError(
          f'{image.path} is junk (identity {image.pid}), which only'
          f' {FOLDERS["gallery"]} may hold.'
        )
    for image in splits['query']:
      if image.pid == reid_builder.DISTRACTOR_PID:
        raise ValueError(
          f'{image.path} has identity 0, which means a distractor: nobody to'
          ' look for. Number people from 1.'
        )
    return splits
