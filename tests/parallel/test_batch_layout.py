"""Shards of a batch: equal slices of every micro-batch, in order."""

from hypothesis import given
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from apnet_jax.parallel.batch_layout import shard, shard_positions

numbers = st.integers(1, 6)


@given(numbers, numbers, numbers)
def test_shards_hold_consecutive_slices_of_every_micro_batch(
  micro_batches, shards, each
):
  positions = shard_positions(
    micro_batches * shards * each, shards, micro_batches
  )
  expected = [
    [
      (m * shards + s) * each + i
      for m in range(micro_batches)
      for i in range(each)
    ]
    for s in range(shards)
  ]
  assert positions.tolist() == expected


@given(numbers, numbers, numbers, numbers)
def test_devices_of_a_process_hold_its_shard(
  micro_batches, processes, devices, each
):
  """Sharding over processes and then devices is sharding over all devices."""
  images = micro_batches * processes * devices * each
  of_processes = shard_positions(images, processes, micro_batches)
  in_two_steps = [shard(own, devices, micro_batches) for own in of_processes]
  np.testing.assert_array_equal(
    np.concatenate(in_two_steps),
    shard_positions(images, processes * devices, micro_batches),
  )


def test_an_array_is_laid_out_by_these_positions():
  positions = shard_positions(12, 2, micro_batches=3)
  assert positions.tolist() == [
    [0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11],
  ]  # fmt: skip
  x = np.arange(24).reshape(12, 2)
  for array in (x, jnp.asarray(x)):
    np.testing.assert_array_equal(shard(array, 2, 3), x[positions])


def test_a_batch_that_does_not_divide_is_an_error():
  with pytest.raises(ValueError, match='of 8 images .* among 3 processes'):
    shard_positions(8, 3)
  with pytest.raises(
    ValueError, match='into 3 micro-batches, each among 2 processes'
  ):
    shard_positions(8, 2, micro_batches=3)
