import json
import pathlib

from apnet_jax.accelerators import input_rate

RECORD = (
  pathlib.Path(__file__).parents[2]
  / 'docs/records/benchmarks/input_pipeline.json'
)


def test_the_rates_are_those_of_the_record():
  record = json.loads(RECORD.read_text())
  one, two = (
    record['figures by number of cores'][cores]['decode, resize: uint8 batches']
    for cores in ('1', '2')
  )
  assert input_rate.ENCODED_PER_CORE == two['this project']['a core']
  decoded = 'this project, decoded cache'
  assert input_rate.DECODED_PER_HOST == two[decoded]['images/s']
  assert two[decoded]['images/s'] <= one[decoded]['images/s']


def test_decoded_images_are_recommended_where_they_save_cores():
  few, many = map(input_rate.cores_needed, (3110, 8 * 3110))
  assert few['encoded'] == 1 and many['encoded'] == 8
  assert 0 < many['decoded'] < 1
  assert not input_rate.recommends_decoded(few)
  assert input_rate.recommends_decoded(many)


def test_decoded_images_have_a_limit_that_cores_do_not_raise():
  at, above = map(input_rate.cores_needed, (70_949, 70_950))
  assert at['decoded'] == 1 and input_rate.recommends_decoded(at)
  assert above['decoded'] is None
  assert above['encoded'] > 22
  assert not input_rate.recommends_decoded(above)
