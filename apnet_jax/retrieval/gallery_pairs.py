"""Judges similarities by the pairs of images in a gallery without labels.

What counts as similar depends on the network and on the images. Without a
threshold, the pairs of gallery images give a scale. Their identities are
unknown, so pairs of one person are among them; in a gallery of many people
these are few.
"""

import numpy as np

from apnet_jax.retrieval import collapse

MIN_PAIRS = 20  # different pairs, of 7 images; fewer give no scale


def sample(embeddings: np.ndarray) -> np.ndarray:
  """Returns the cosine similarities of a sample of pairs of gallery images.

  Args:
    embeddings: float [images, features], of the gallery.

  Returns:
    float64 [`collapse.PAIRS`], sorted; empty if the gallery has fewer images
    than `MIN_PAIRS` pairs need.
  """
  images = len(embeddings)
  if images * (images - 1) // 2 < MIN_PAIRS:
    return np.zeros(0)
  every_image_a_person = np.arange(images)
  return np.sort(
    collapse.stranger_similarities(embeddings, every_image_a_person)
  )


def share_below(pairs: np.ndarray, similarity: float) -> float | None:
  """Returns the share of gallery pairs with a lower similarity.

  Args:
    pairs: the result of `sample`.
    similarity: a cosine similarity.

  Returns:
    The share, 0 to 1; None if `pairs` is empty.
  """
  if not len(pairs):
    return None
  return int(np.searchsorted(pairs, similarity)) / len(pairs)


def place(share: float | None) -> str:
  """Returns the result of `share_below` in words; '' if it is None."""
  if share is None:
    return ''
  return f'above {100 * share:.1f}% of pairs'


def legend(pairs: np.ndarray) -> str:
  """Returns a sentence that explains what `place` returns.

  Args:
    pairs: the result of `sample`.
  """
  if not len(pairs):
    return (
      'The gallery has too few images to tell where a similarity lies among'
      ' those of strangers.'
    )
  return (
    '"above x% of pairs": the similarity is higher than that of x% of the pairs'
    ' of gallery images. Their identities are unknown: nearly all pairs show'
    ' strangers if the gallery shows many people.'
  )


def describe_collapse(pairs: np.ndarray) -> str:
  """Returns a warning if the network embeds a gallery's images alike, else ''.

  Args:
    pairs: the result of `sample`.
  """
  found = collapse.describe(
    float(np.median(pairs)) if len(pairs) else None,
    'pairs of gallery images, whose identities are unknown,',
  )
  return found and (
    f'{found} Similarities then do not tell persons apart.'
    f' {collapse.describe_causes()} (If the gallery shows one person only, the'
    ' network may be sound.)'
  )
