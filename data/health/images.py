"""Whether images are whole: their headers, end markers and contents."""

from collections.abc import Iterable, Iterator
from concurrent import futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import statistics
import warnings

from PIL import Image
from tqdm import tqdm

from apnet_jax.images import FORMATS, check_pixels
from data import raw
from data.cuhk03_np.layout import MatImage

# A file of its own, or an image in CUHK03's release.
Target = pathlib.Path | MatImage
JPEG_END, JPEG_SCAN = b'\xff\xd9', b'\xff\xda'
PNG_END = b'IEND\xaeB`\x82'
CHUNK = 64  # images that a thread checks at a time


@dataclasses.dataclass(frozen=True)
class Checked:
  """What is known of an image.

  Attributes:
    kind: of fault: `unreadable`, `truncated`, or '' if it has none.
    reason: what the fault is, for people.
    width: in pixels; 0 if unknown, as `height`.
    height: in pixels.
    digest: of its bytes; empty if it has a fault.
  """

  kind: str = ''
  reason: str = ''
  width: int = 0
  height: int = 0
  digest: bytes = b''


def target_of(image: raw.RawImage) -> Target:
  """What to check of an image, and what its check is found under."""
  return image if isinstance(image, MatImage) else image.path


def check_all(
  targets: Iterable[Target], decode: bool = False
) -> dict[Target, Checked]:
  """Checks images in parallel, with a progress bar if that takes long.

  Args:
    targets: each once.
    decode: whether to decode them too, not only to look at their two ends.
  """
  targets = list(targets)
  chunks = [targets[i : i + CHUNK] for i in range(0, len(targets), CHUNK)]
  check = functools.partial(_check_chunk, decode=decode)
  bar = tqdm(
    total=len(targets), desc='Checking images', unit=' images', leave=False,
    delay=1, mininterval=0.5,
  )  # fmt: skip
  results = []
  with (
    _strict_pillow(),
    bar,
    futures.ThreadPoolExecutor(os.cpu_count()) as pool,
  ):
    for checked in pool.map(check, chunks):
      results += checked
      bar.update(len(checked))
  return dict(zip(targets, results))


@contextlib.contextmanager
def _strict_pillow() -> Iterator[None]:
  """Makes Pillow refuse huge images, and keep other doubts to itself."""
  with warnings.catch_warnings():  # for all threads, until they are done
    warnings.simplefilter('ignore')
    warnings.simplefilter('error', Image.DecompressionBombWarning)
    yield


def _check_chunk(targets: list[Target], decode: bool) -> list[Checked]:
  return [check(target, decode) for target in targets]


def load(target: Target) -> Image.Image | None:
  """The decoded image, or None if it cannot be read."""
  try:
    with _strict_pillow():
      image = Image.open(io.BytesIO(_read(target)), formats=FORMATS)
      check_pixels(*image.size)
      image.load()
      return image
  except Exception:  # Pillow's readers raise all kinds
    return None


def check(target: Target, decode: bool = False) -> Checked:
  """Checks one image."""
  try:
    data = _read(target)
  except OSError as error:
    return Checked('unreadable', error.strerror or str(error))
  return check_bytes(data, decode)


def _read(target: Target) -> bytes:
  if isinstance(target, MatImage):
    return target.read()
  return raw.read_file(target)


def check_bytes(data: bytes, decode: bool = False) -> Checked:
  """Checks an encoded image; any bytes will do."""
  if not data:
    return Checked('unreadable', 'empty')
  try:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
  except Image.UnidentifiedImageError:
    return Checked('unreadable', _not_an_image(data))
  except (Image.DecompressionBombError, Image.DecompressionBombWarning):
    return Checked('unreadable', 'too many pixels to be decoded')
  except Exception as error:  # Pillow's readers raise all kinds
    return Checked('unreadable', f'broken header: {_first_line(error)}')
  size = image.size
  try:
    check_pixels(*size)
  except ValueError as error:
    return Checked('unreadable', str(error), *size)
  if not image.tile or not _has_end(image.format, data):  # or no pixels
    return Checked('truncated', 'its end is missing', *size)
  if decode:
    try:
      image.load()
    except Exception as error:  # as above
      return Checked('unreadable', f'broken: {_first_line(error)}', *size)
  return Checked('', '', *size, hashlib.blake2b(data, digest_size=16).digest())


def _has_end(form: str, data: bytes) -> bool:
  """Whether TensorFlow will find the end, which Pillow can do without.

  Other bytes may follow it; the end of a thumbnail in the header is not it.
  """
  if form == 'PNG':
    return PNG_END in data
  return data.endswith(JPEG_END) or data.rfind(JPEG_END) > data.rfind(JPEG_SCAN)


def _not_an_image(data: bytes) -> str:
  if data.startswith((b'\xff\xd8', b'\x89PNG')):
    return 'broken header'
  return 'neither JPEG nor PNG'


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [''])[0][:100] or type(error).__name__


def range_of(lengths: Iterable[int]) -> dict[str, float]:
  """The least, the median and the greatest; at least one is needed."""
  lengths = list(lengths)
  return {
    'min': min(lengths),
    'median': statistics.median(lengths),
    'max': max(lengths),
  }
