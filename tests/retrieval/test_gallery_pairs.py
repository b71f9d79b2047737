import numpy as np
import pytest

from apnet_jax.retrieval import collapse, gallery_pairs


def test_the_share_is_of_pairs_that_are_less_similar():
  pairs = np.array([-0.5, 0.2, 0.2, 0.9])
  shares = {-1: 0, 0.2: 0.25, 0.3: 0.75, 0.9: 0.75, 1: 1}
  found = {s: gallery_pairs.share_below(pairs, s) for s in shares}
  assert found == shares
  assert gallery_pairs.place(0.97) == 'above 97.0% of pairs'
  assert gallery_pairs.place(gallery_pairs.share_below(pairs[:0], 1)) == ''


@pytest.mark.parametrize(('offset', 'collapsed'), [(0, False), (1e-4, True)])
def test_training_and_search_have_one_threshold(offset, collapsed):
  similarity = collapse.COLLAPSED + offset
  pairs = np.full(collapse.PAIRS, similarity)
  in_search = gallery_pairs.describe_collapse(pairs)
  in_training = collapse.describe(similarity)
  assert bool(in_search) == bool(in_training) == collapsed
  if collapsed:
    subject, _, end = in_training.partition(': ')
    assert in_search.startswith(f'{subject}: pairs of gallery images')
    assert end.partition(' have ')[2] in in_search
    assert collapse.describe_causes() in in_search


def test_an_image_is_no_pair_with_itself():
  """Orthogonal images, of any length: only an image itself has similarity 1."""
  pairs = gallery_pairs.sample(np.diag(np.arange(1.0, 8)))
  assert len(pairs) and not pairs.any()


@pytest.mark.parametrize(
  ('images', 'known'), [(1, False), (6, False), (7, True)]
)
def test_few_images_give_no_scale(images, known):
  pairs = gallery_pairs.sample(np.ones((images, 3)))
  assert bool(len(pairs)) == known
  assert ('too few' in gallery_pairs.legend(pairs)) != known
  assert ('alike' in gallery_pairs.describe_collapse(pairs)) == known
