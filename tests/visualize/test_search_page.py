import base64
import io
import json

import numpy as np
from PIL import Image
import pytest

from apnet_jax.commands import search
from apnet_jax.errors import UserError
from apnet_jax.visualize import page, search_page
from tests.visualize import browser, worlds

COLOURS = {'a': (200, 0, 0), 'b': (0, 200, 0), 'c': (0, 0, 200)}


def hit(image, similarity, verdict=None, **columns):
  return {
    'image': str(image), **columns, 'similarity': similarity,
    'verdict': verdict, 'share_of_pairs_below': 0.5,
  }  # fmt: skip


@pytest.fixture(scope='module')
def results(tmp_path_factory):
  """A search for two images: boxes, a video, and an image that is gone."""
  folder = tmp_path_factory.mktemp('images')
  for name, colour in COLOURS.items():
    pixels = np.full((40, 60, 3), 255, np.uint8)
    pixels[5:25, 10:20] = colour
    Image.fromarray(pixels).save(folder / f'{name}.png')
  box = {'x1': 10.0, 'y1': 5.0, 'x2': 20.0, 'y2': 25.0}
  a, b, gone = folder / 'a.png', folder / 'b.png', folder / worlds.HOSTILE
  return {
    'threshold': 0.6,
    'remarks': ['Threshold 0.6, as given.'],
    'unreadable': {'d.png': 'd.png cannot be read: x'},
    'results': [
      {
        'query': str(a),
        'found': [
          hit(b, 0.9, 'same person', pid='7', **box),
          hit(b, 0.7, 'same person', pid='7', camid='2'),
          hit(gone, 0.5, 'another', pid='8'),
          hit('street.mp4', 0.4, 'another', frame=3, track=1, **box),
        ],
      },
      {'query': str(b), 'found': [hit(folder / 'c.png', 0.2, 'another')]},
    ],
  }


def pixels_of(thumbnail):
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail))))


def test_each_image_is_there_once_and_boxes_are_cut_out(results):
  images = search_page.page_data(results)['images']
  assert len(images['name']) == 6  # b is a found image and a query
  size = {
    n: pixels_of(t).shape[:2] for n, t in enumerate(images['thumbnail']) if t
  }
  assert [*size.values()] == [(40, 60), (20, 10), (40, 60), (40, 60)]
  cut = pixels_of(images['thumbnail'][1])[10, 5]
  np.testing.assert_allclose(cut, COLOURS['b'], atol=25)
  assert images['about'][:3] == [
    '', 'pid 7, box 10 5 20 25', 'pid 7, camid 2'
  ]  # fmt: skip


def test_a_query_that_is_found_has_the_columns_of_the_index(results):
  order = [*reversed(results['results'])]  # b is a query before it is found
  data = search_page.page_data(results | {'results': order})
  images = data['images']
  shown = dict(zip(images['name'], images['about']))
  b = order[0]['query']
  assert images['name'][0] == b and data['queries'][0]['image'] == 0
  assert images['about'][0] == 'pid 7, camid 2'
  # The box in it is another image, and so is the query that is not found.
  assert images['name'].count(b) == 2
  assert shown[order[1]['query']] == ''


def test_images_without_a_picture_are_named(results):
  data = search_page.page_data(results)
  problems = data['images']['problem']
  assert problems == [None, None, None, 'cannot be read', 'in a video', None]
  shown = search_page.make_page(data, 'Search', results['remarks'])
  assert '1 images cannot be read any more' in shown
  assert '&lt;img src=x' in shown and '<img src=x' not in shown
  assert 'Boxes in videos have no picture' in shown
  assert '1 images could not be read, and were not searched' in shown
  assert 'the person of\n1 of 2 queries' in shown


def test_with_a_small_budget_queries_are_left_out(
  results, tmp_path, monkeypatch
):
  for i in range(10):
    Image.new('RGB', (10, 20), (20 * i, 0, 0)).save(tmp_path / f'{i}.png')
  lists = [
    {
      'query': str(tmp_path / f'{i}.png'),
      'found': [hit(tmp_path / f'{i + 5}.png', 0.5)],
    }
    for i in range(5)
  ]
  many = results | {'results': lists}
  everything = search_page.page_data(many)
  assert len(everything['queries']) == 5
  size = len(''.join(everything['images']['thumbnail']))
  data = search_page.page_data(many, round(0.7 * size))
  names = [data['images']['name'][q['image']][-5:] for q in data['queries']]
  assert names == ['0.png', '2.png', '4.png']
  assert 'Shown are 3 of 5 queries' in search_page.make_page(data, 'Search')
  monkeypatch.setattr(search_page, 'TOP', 2)
  data = search_page.page_data(results)
  assert [len(q['lists'][0]['found']) for q in data['queries']] == [2, 1]
  assert 'Of 4 images of a list, the first 2' in search_page.make_page(data, '')


def test_the_folder_may_have_nothing_else(results, tmp_path, capsys):
  folder = tmp_path / 'report'
  search.check_report(str(folder), '')
  search.write_report(str(folder), results, 'people')
  assert [p.name for p in folder.iterdir()] == ['index.html']
  assert (folder / 'index.html').as_uri() in capsys.readouterr().out
  data = page.read_data(folder / 'index.html')
  assert data == json.loads(json.dumps(search_page.page_data(results)))
  search.check_report(str(folder), str(tmp_path / 'copies'))
  with pytest.raises(UserError, match='need a folder each'):
    search.check_report(str(folder), str(folder))
  (folder / 'notes.txt').touch()
  with pytest.raises(UserError, match='other files than a report: notes.txt'):
    search.check_report(str(folder), '')


def test_the_page_in_a_browser(results, tmp_path):
  shown = search_page.make_page(search_page.page_data(results), 'Search', [])
  page.write_page(tmp_path / 'index.html', shown)
  with browser.start() as chromium:
    for width, scheme in ((1280, 'light'), (390, 'dark')):
      opened = chromium.open(
        tmp_path / 'index.html', width, color_scheme=scheme
      )
      row = opened.locator('article .row').first
      row.wait_for()
      assert opened.evaluate('document.documentElement.scrollWidth') <= width
      kinds = row.locator('> *').evaluate_all(
        'all => all.map(e => e.className)'
      )
      assert kinds == [
        'cell query', 'cell same', 'cell same', 'threshold', 'cell other',
        'cell other',
      ]  # fmt: skip
      assert 'pid 8' in row.locator('.other').first.inner_text()
    row.locator('.other').first.click()
    dialog = opened.locator('dialog')
    assert 'similarity 0.5000' in dialog.inner_text()
    assert worlds.HOSTILE in dialog.inner_text()
    opened.keyboard.press('ArrowRight')
    assert 'street.mp4' in dialog.inner_text()
    opened.keyboard.press('Escape')
    opened.get_by_label('Person').select_option('not found')
    opened.wait_for_function(
      'document.querySelectorAll("article").length === 1'
    )
    assert 'is not among' in opened.locator('article').inner_text()
    assert chromium.messages == []


def test_without_a_threshold_there_are_no_verdicts(results):
  found = [hit('gone.png', 0.5)]
  plain = results | {
    'threshold': None, 'results': [{'query': 'q.png', 'found': found}],
  }  # fmt: skip
  data = search_page.page_data(plain)
  (entry,) = data['queries'][0]['lists']
  assert entry['kinds'] == [search_page.PLAIN]
  assert entry['shares'] == [0.5]
  shown = search_page.make_page(data, '', ['No threshold is known.'])
  assert 'At the threshold' not in shown and 'No threshold is known' in shown
