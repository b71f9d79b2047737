"""The base class of this project's TFDS builders, which prepare data sets.

A layout lists the images of a raw folder. The base class checks that each image
can be decoded, and writes the files into random-access files: unchanged, if
TensorFlow reads them as they are meant.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from apnet_jax.images import strict_pillow
from data import decoding, encoding, raw


class ReidBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Prepares the splits train, query and gallery of a raw data set.

  Examples hold `image` (a JPEG or PNG file, see `data.encoding`), `path`
  (relative to the raw folder), `pid` (-1 is junk) and `camid` (from 0).
  Identities are numbered as in the raw data set; the pipeline makes training
  labels from them.

  Attributes:
    LAYOUTS: layouts of a subclass, one for each of its TFDS configurations.
  """

  VERSION = tfds.core.Version('1.2.0')
  RELEASE_NOTES = {
    '1.0.0': 'Initial release.',
    '1.1.0': 'Images are turned by their EXIF orientation.',
    '1.2.0': "CMYK images without Adobe's marker are not inverted.",
  }
  LAYOUTS: tuple[raw.Layout, ...]

  def __init_subclass__(cls, **kwargs):
    super().__init_subclass__(**kwargs)
    cls.MANUAL_DOWNLOAD_INSTRUCTIONS = cls.LAYOUTS[0].how_to_get
    cls.BUILDER_CONFIGS = [
      tfds.core.BuilderConfig(name=layout.variant, description=layout.title)
      for layout in cls.LAYOUTS
      if layout.variant
    ]

  def __init__(self, *, dataset: raw.RawDataset | None = None, **kwargs):
    """Creates a builder.

    Args:
      dataset: images to prepare; None reads them from TFDS's `manual_dir`.
      **kwargs: arguments of TFDS's builder.
    """
    self._dataset = dataset
    super().__init__(**kwargs)

  @property
  def layout(self) -> raw.Layout:
    """The layout of the TFDS configuration in use."""
    variant = self.builder_config.name if self.builder_config else ''
    (layout,) = (one for one in self.LAYOUTS if one.variant == variant)
    return layout

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(None, None, 3)),
          'path': tfds.features.Text(),
          'pid': tfds.features.Scalar(np.int64),
          'camid': tfds.features.Scalar(np.int64),
        }
      ),
      homepage=self.layout.homepage,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    dataset = self._dataset or self.layout.read(dl_manager.manual_dir)
    if dataset.doubt:
      raise dataset.doubt.error()
    splits = {name: images for name, images in dataset.splits.items() if images}
    # An image in both query and gallery is checked once.
    decoding.check_readable(
      dict.fromkeys(image for images in splits.values() for image in images)
    )
    return {
      name: self._generate_examples(images) for name, images in splits.items()
    }

  def _generate_examples(
    self, images: list[raw.RawImage]
  ) -> Iterator[tuple[str, dict]]:
    for image in images:
      with strict_pillow():
        stored = encoding.to_stored(image.read())
      yield (
        image.name,
        {
          'image': stored.encoded,
          'path': image.name,
          'pid': image.pid,
          'camid': image.camid,
        },
      )
