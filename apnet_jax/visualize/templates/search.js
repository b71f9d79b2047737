// Kinds of found images, in the order of search_page.py.
const kinds = [
  { name: 'plain', sign: '', word: '', ranked: true },
  { name: 'same', sign: '', word: 'same person', ranked: true },
  { name: 'other', sign: '', word: 'another', ranked: true },
];
const [SAME, OTHER] = [1, 2];
const { threshold } = data;
const isFound = (query) => query.lists[0].kinds[0] === SAME;
const closest = (query) => query.lists[0].similarity[0];

// How high a similarity is among those of pairs of searched images.
function amongPairs(list, place) {
  const share = list.shares[place];
  return share === null ? '' : `above ${percent(share)} of pairs`;
}

// The line between the images above and below the threshold.
function divider(list, place) {
  if (list.kinds[place] !== OTHER || list.kinds[place - 1] === OTHER) return null;
  return make('div', { class: 'threshold' }, `threshold ${threshold.toFixed(3)}`);
}

// A query with a found image.
function larges(query, run, cell) {
  const shown = cell || cells(query.lists[0])[0];
  const { word } = shown.kind;
  const parts = [`rank ${shown.rank}`, `similarity ${shown.similarity.toFixed(4)}`,
    word && `${word} by the threshold`, amongPairs(query.lists[0], shown.place)];
  return [
    large(query.image, 'query'),
    large(shown.image, parts.filter(Boolean).join(', ')),
  ];
}

controls.person.parentElement.hidden = threshold === null;
showLists({
  kinds, divider, larges,
  note: (list, place) => (threshold === null ? amongPairs(list, place) : ''),
  describe: (image) => images.about[image],
  headings: (query) => [threshold !== null && !isFound(query)
    ? 'By the threshold, the person is not among the images that were searched.' : ''],
  orders: {
    'as searched': () => 0,
    'highest similarity': (a, b) => closest(b) - closest(a),
    'lowest similarity': (a, b) => closest(a) - closest(b),
    'by file name': (a, b) => images.name[a.image].localeCompare(images.name[b.image]),
  },
  passes: (query, { person }) => !person || isFound(query) === (person === 'found'),
  legend: 'Below each image: its rank, the cosine similarity to the query, and what else the'
    + ' searched images have: columns such as pid or track.'
    + (threshold === null ? '' : ' Same person or another: by the threshold.'),
  pairTitle: (query) => images.name[query.image],
});
