"""Embeds images into a file.

  python -m apnet_jax embed --ckpt=runs/market --output=gallery.npz DIR

Arguments are images, folders, patterns in quotes ('DIR/*/*.jpg'), text files
with a path on each line (.txt), or CSV files. A CSV file has a column path, and
for boxes in images x1, y1, x2 and y2, in pixels; other columns are kept.

With --video the boxes lie in the frames of a video:

  python -m apnet_jax embed --ckpt=runs/market --output=people.npz \\
    --video=street.mp4 --boxes=tracks.csv

The CSV file has the columns frame, x1, y1, x2, y2 and track; or it is a file of
MOTChallenge (gt.txt, det.txt, or what a tracker writes), without a header. This
needs PyAV (pip install '.[video]'). In place of x2 and y2 a CSV file may have
widths and heights: x, y, w, h, or left, top, width, height. The images of a
sequence are named by a pattern (--video='DIR/%06d.jpg'), and their numbers are
those of the frames.

The file has the columns of the images, embeddings of length 1 and the
fingerprint of the network. It is an .npz file of numpy, or a .parquet file
(pip install '.[parquet]'). A command that was killed continues when it is
called again. A file of other images or of another network is replaced, and a
message says so. Images that cannot be read, and boxes outside of their image,
are left out and listed at the end; --strict makes the first of them an error.
"""

from collections.abc import Callable
import sys

from absl import flags

from apnet_jax import cli
from apnet_jax.errors import UserError
from apnet_jax.inference import embedding_files, image_files, rows
from apnet_jax.inference.embedder import Embedder
from apnet_jax.inference.embedding_job import embed_into
from apnet_jax.printing import counted


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  ckpt = flags.DEFINE_string('ckpt', None, cli.CKPT_HELP, required=True)
  which, flip = cli.define_which(), cli.define_flip()
  output = flags.DEFINE_string(
    'output', None, 'File to write, .npz or .parquet.', required=True
  )
  dtype = flags.DEFINE_enum(
    'dtype',
    'float32',
    embedding_files.DTYPES,
    'Type of the embeddings in the file; float16 takes half the space.',
  )
  video = flags.DEFINE_string(
    'video', None, 'Video with the boxes, or images as DIR/%06d.jpg.'
  )
  boxes = flags.DEFINE_string(
    'boxes',
    None,
    'CSV file: frame, x1, y1, x2, y2, track; or a file of MOTChallenge.',
  )
  first_frame = flags.DEFINE_integer(
    'first_frame',
    None,
    'Number that the CSV file gives the first frame of a video; default: 1 in a'
    ' file of MOTChallenge, and 0 in any other.',
  )
  strict = flags.DEFINE_bool(
    'strict',
    False,
    'Stops at the first image that cannot be read, instead of leaving it out.',
  )

  def main(argv):
    embedding_files.check_name(output.value)
    cli.check_output(output.value, '--output')
    source = find_rows(argv[1:], video.value, boxes.value, first_frame.value)
    cli.quieten()
    embedder = Embedder.load(ckpt.value, which.value, flip=flip.value)
    if flip.present:  # it may differ from that of the threshold
      print(embedder.about, file=sys.stderr)
    found = embed_into(
      output.value, embedder, source, dtype.value, strict.value
    )
    if found.resumed:
      print(f'resumed: {counted(found.resumed, "image")} had been embedded')
    if found.replaced:
      print(f'replaced {output.value} ({found.replaced})')
    print(
      f'wrote {output.value}: {counted(found.rows, "embedding")} of'
      f' {embedder.dimensions:,} features, network {embedder.fingerprint}'
    )
    cli.warn(image_files.list_unreadable(found.errors, len(source)))

  return main


def find_rows(
  names: list[str],
  video: str | None,
  boxes: str | None,
  first_frame: int | None,
) -> 'rows.ImageRows | rows.VideoRows':
  """Returns the images or boxes that the command line names.

  Raises:
    UserError: a flag is missing, or images are named beside a video.
  """
  if not video and not boxes:
    if first_frame is not None:
      raise UserError('--first_frame needs --video, a video.')
    return rows.find(names)
  if not video or not boxes:
    raise UserError('--video and --boxes need each other.')
  if names:
    raise UserError(f'--video is given, and so are images: {", ".join(names)}.')
  return rows.VideoRows(video, boxes, first_frame)
