"""The host cores that an input pipeline needs to feed accelerators."""

# Images that one core decodes and resizes in a second, by the value of
# config.data.cache, as measured with files of 128x64 and batches of 384x192 on
# AMD EPYC: docs/records/benchmarks/input_pipeline.json. Accelerators augment
# the images themselves.
IMAGES_PER_CORE = {'encoded': 3819, 'decoded': 72_788}
# Cores of a host that decoded images must save to be recommended.
WORTHWHILE = 4


def cores_needed(images_per_second: float) -> dict[str, float]:
  """Estimates the cores that deliver images in time.

  Args:
    images_per_second: images that accelerators train on in a second.

  Returns:
    The number of cores by the value of `config.data.cache`.
  """
  return {
    cache: images_per_second / rate for cache, rate in IMAGES_PER_CORE.items()
  }


def recommends_decoded(cores: dict[str, float]) -> bool:
  """Returns whether it saves enough cores to hold decoded images in memory.

  Args:
    cores: cores of a host by the value of `config.data.cache`.
  """
  return cores['encoded'] - cores['decoded'] >= WORTHWHILE
