import json
import pathlib

from apnet_jax.accelerators import input_rate

RECORD = (
  pathlib.Path(__file__).parents[2]
  / 'docs/records/benchmarks/input_pipeline.json'
)


def test_the_rates_are_those_of_the_record():
  record = json.loads(RECORD.read_text())
  one_core = record['figures by number of cores']['1']
  rows = one_core['decode, resize: uint8 batches']
  assert input_rate.IMAGES_PER_CORE == {
    'encoded': rows['this project']['a core'],
    'decoded': rows['this project, decoded cache']['a core'],
  }


def test_decoded_images_are_recommended_where_they_save_cores():
  few, many = map(input_rate.cores_needed, (3819, 8 * 3819))
  assert few['encoded'] == 1 and many['encoded'] == 8
  assert 0 < many['decoded'] < 1
  assert not input_rate.recommends_decoded(few)
  assert input_rate.recommends_decoded(many)
