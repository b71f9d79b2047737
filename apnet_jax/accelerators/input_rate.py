"""The host cores that an input pipeline needs to feed accelerators."""

from typing import TypedDict

# Images that a host decodes and resizes in a second, by the value of
# config.data.cache, as measured on two cores of AMD EPYC with files of 128x64
# and batches of 384x192: docs/records/benchmarks/input_pipeline.json.
# Accelerators augment the images themselves. Two cores decode less than twice
# as much as one (3,819), so the rate is that of a core beside another.
ENCODED_PER_CORE = 3110
# Decoded images are only copied, which one core does as fast as two (72,788 and
# 70,949): other cores add nothing.
DECODED_PER_HOST = 70_949
# Cores of a host that decoded images must save to be recommended.
WORTHWHILE = 4


class Cores(TypedDict):
  """Cores that deliver images in time, by the value of `config.data.cache`.

  None where no number of cores is known to be enough.
  """

  encoded: float
  decoded: float | None


def cores_needed(images_per_second: float) -> Cores:
  """Estimates the cores that deliver images in time.

  Args:
    images_per_second: images that the accelerators of a host train on in a
      second.
  """
  decoded = images_per_second / DECODED_PER_HOST
  return {
    'encoded': images_per_second / ENCODED_PER_CORE,
    'decoded': decoded if decoded <= 1 else None,
  }


def recommends_decoded(cores: Cores) -> bool:
  """Returns whether it saves enough cores to hold decoded images in memory.

  Args:
    cores: result of `cores_needed`.
  """
  encoded, decoded = cores['encoded'], cores['decoded']
  return decoded is not None and encoded - decoded >= WORTHWHILE
