const { runs } = data;
const two = runs.length > 1;
const colours = ['var(--a)', 'var(--b)'];

function describe(image) {
  const camera = data.has_cameras ? `, camera ${images.camera[image]}` : '';
  const identity = images.identity[image];
  return (identity < 0 ? 'no identity' : `identity ${identity}`) + camera;
}

// Charts.

function showCards() {
  for (const place of document.querySelectorAll('[data-card]')) {
    const { card } = runs[place.dataset.card];
    const table = make('table');
    const add = (name, value) => {
      const text = value === null ? '-' : String(value);
      table.append(make('tr', {}, make('th', { scope: 'row' }, name), make('td', {}, text)));
    };
    const addFigures = (figures, of = '') => {
      for (const [name, value] of Object.entries(figures))
        if (name !== 'cmc') add(of + name, percent(value, 2));
    };
    addFigures(card.figures);
    if (card.reranked) addFigures(card.reranked.figures, 're-ranked: ');
    for (const [way, { figures, bytes, fitted_on: fittedOn }] of Object.entries(card.shorter ?? {})) {
      addFigures(figures, `${way}: `);
      add(`${way}: bytes`, bytes);
      add(`${way}: images fitted on`, fittedOn);
    }
    for (const part of ['protocol', 'gallery', 'network', 'recipe'])
      for (const [name, value] of Object.entries(card[part] ?? {})) add(`${part}: ${name}`, value);
    place.append(table);
  }
}

function cmcPanel() {
  // By another rule of the CMC curve, it is an expectation.
  const rules = runs.map(({ card }) => (card.protocol.cmc === 'whole gallery'
    ? '' : ', expected with one random gallery image of each identity'));
  const same = rules.every((rule) => rule === rules[0]);
  const lines = runs.map((run, i) => ({
    name: (run.name || 'CMC') + (same ? '' : rules[i]), colour: colours[i], dash: dashes[i],
    points: run.card.figures.cmc.map((y, k) => [k + 1, y]),
  }));
  return panel(`CMC: a right image among the first k${same ? rules[0] : ''}`, lines, {
    x: 'k', y: 'share of the queries',
    yRange: [Math.min(0.99, ...runs.map((run) => run.card.figures.cmc[0])) * 0.98, 1],
  });
}

const MOST_CAMERAS = 40; // in the rows and columns of a table

function camerasPanel(run) {
  const grid = run.card.by_cameras;
  const columns = grid.gallery_cameras.slice(0, MOST_CAMERAS);
  const all = Math.max(grid.query_cameras.length, grid.gallery_cameras.length);
  const table = make('table', { class: 'heat' });
  table.append(make('tr', {}, make('th', {}, 'query \\ gallery'),
    ...columns.map((c) => make('th', { scope: 'col' }, `c${c}`))));
  grid.mAP.slice(0, MOST_CAMERAS).forEach((row, i) => {
    table.append(make('tr', {}, make('th', { scope: 'row' }, `c${grid.query_cameras[i]}`),
      ...columns.map((_, j) => row[j]).map((value, j) => value === null
        ? make('td', {}, '–')
        : make('td', {
            title: `${grid.queries[i][j]} queries`,
            style: `background:color-mix(in srgb, var(--a) ${Math.round(55 * value)}%, transparent)`,
          }, (100 * value).toFixed(0)))));
  });
  return make('figure', { class: 'panel' },
    make('h3', {}, title('mAP between cameras, in percent', run)),
    make('div', { class: 'scroll' }, table),
    make('figcaption', {}, 'Each gallery camera alone; a bluer cell is better.' + (all > MOST_CAMERAS
      ? ` Shown are the first ${MOST_CAMERAS} of ${all} cameras; cameras.png has all, result.json their numbers.`
      : '')));
}

const title = (text, run) => (run.name ? `${text}: ${run.name}` : text);

// The points of a histogram as a line of steps.
function steps(counts, from, to) {
  const total = counts.reduce((a, b) => a + b, 0) || 1;
  const width = (to - from) / counts.length;
  return counts.flatMap((count, i) => [
    [from + i * width, count / total], [from + (i + 1) * width, count / total],
  ]);
}

function verificationPanels(run) {
  const { histogram, curve, equal_error: equal, stored_threshold: stored } = run.card.verification;
  const lines = ['impostor', 'genuine'].map((name) => ({
    name: name === 'genuine' ? 'pairs of one person' : 'pairs of two persons',
    colour: name === 'genuine' ? 'var(--right)' : 'var(--wrong)',
    dash: dashes[name === 'impostor' ? 1 : 0], filled: true,
    points: [[histogram.from, 0], ...steps(histogram[name], histogram.from, histogram.to), [histogram.to, 0]],
  }));
  const seen = lines.flatMap((l) => l.points.filter((p) => p[1] > 0).map((p) => p[0]));
  const range = [Math.min(...seen), Math.max(...seen)];
  lines.forEach((l) => { l.points = l.points.filter((p) => p[0] >= range[0] && p[0] <= range[1]); });
  const figure = panel(title('Similarities and the threshold', run), lines, {
    x: 'cosine similarity', y: 'share of the pairs', xRange: range,
  });
  const mark = make('line', { y1: 12, y2: 244, stroke: 'var(--ink)', 'stroke-width': 2 });
  figure.svg.append(mark);
  const start = stored ? stored.here : equal;
  // The slider also stops at these two, which the curve need not have.
  const known = [
    ...curve.threshold.map((threshold, i) => ({
      threshold, tpr: curve.tpr[i], fpr: curve.fpr[i], fnir: curve.fnir[i], fpir: curve.fpir[i],
    })),
    equal, start,
  ];
  const stops = [...new Map(known.map((point) => [point.threshold, point])).values()]
    .sort((a, b) => a.threshold - b.threshold);
  const slider = make('input', {
    type: 'range', min: 0, max: stops.length - 1, value: stops.indexOf(start), 'aria-label': 'threshold',
  });
  const rates = make('p', { 'aria-live': 'polite', class: 'rates' });
  const update = () => {
    const { threshold: t, tpr, fpr, fnir, fpir } = stops[Number(slider.value)];
    const at = figure.svg.place(Math.min(range[1], Math.max(range[0], t)));
    mark.setAttribute('x1', at);
    mark.setAttribute('x2', at);
    slider.setAttribute('aria-valuetext', t.toFixed(3));
    rates.textContent =
      `Threshold ${t.toFixed(4)}: ${percent(tpr)} of the pairs of one person are accepted` +
      ` (TPR), and ${number(100 * fpr)}% of the pairs of two persons (FPR). ` +
      `${percent(fnir)} of the queries miss their person (FNIR); ` +
      `${percent(fpir)} would find somebody if their person were not in the gallery (FPIR).`;
  };
  slider.addEventListener('input', update);
  update();
  figure.append(slider, rates, make('figcaption', {}, `${stops.length} thresholds, with exact rates.` +
    ` The first shown is ${stored ? 'the stored threshold' : 'that of the equal error rate'}.`));
  // The axis is logarithmic and has no place for a rate of 0.
  const against = (rates, y) => rates.map((x, i) => [x, y(i)]).filter((p) => p[0] > 0);
  const errors = [
    { name: 'pairs: FPR, 1 − TPR', colour: 'var(--a)', points: against(curve.fpr, (i) => 1 - curve.tpr[i]) },
    { name: 'queries: FPIR, FNIR', colour: 'var(--b)', dash: dashes[1], points: against(curve.fpir, (i) => curve.fnir[i]) },
  ];
  return [
    figure,
    panel(title('ROC: accepted pairs', run), [{ colour: 'var(--a)', points: against(curve.fpr, (i) => curve.tpr[i]) }],
      { x: 'FPR (pairs of two persons)', y: 'TPR (pairs of one person)', xScale: 'log', yRange: [0, 1] }),
    panel(title('Errors at each threshold', run), errors,
      { x: 'false accepts', y: 'misses', xScale: 'log', yRange: [0, 1] }),
  ];
}

function showCharts() {
  const place = document.getElementById('chart-panels');
  place.append(cmcPanel());
  for (const run of runs) {
    if (run.card.by_cameras) place.append(camerasPanel(run));
    if (run.card.verification) place.append(...verificationPanels(run));
  }
}

// Ranked lists.

// Why the images of the third kind are not ranked. One of two runs may ignore
// cameras (`compare --unlike`).
const rules = new Set(runs.map(({ card }) => card.protocol.rules));
const sameWord = data.has_cameras ? 'same camera' : rules.size > 1 ? 'left out' : 'query itself';
// Kinds of images, in the order of ranked_lists.py.
const kinds = [
  { name: 'right', sign: '✓', word: 'right', ranked: true },
  { name: 'wrong', sign: '✗', word: 'wrong', ranked: true },
  { name: 'same', sign: '◌', word: sameWord },
  { name: 'junk', sign: '⊘', word: 'junk' },
];

const score = (x) => `AP ${(100 * x).toFixed(1)}`;

function heading(query, run) {
  const similarity = data.is_cosine ? `, similarity ${query.lists[run].match_similarity.toFixed(3)}` : '';
  const count = query.matches[run];
  const matches = `${count} true match${count === 1 ? '' : 'es'}`;
  const about = `${score(query.AP[run])}, ${matches}, the first at rank ${query.first[run]}${similarity}`;
  return two ? `${runs[run].name}: ${about}` : about;
}

const difference = (q) => q.AP[1] - q.AP[0];
const orders = {
  ...(two && {
    'largest difference': (a, b) => Math.abs(difference(b)) - Math.abs(difference(a)),
    'B better': (a, b) => difference(b) - difference(a),
    'A better': (a, b) => difference(a) - difference(b),
  }),
  'hardest first': (a, b) => Math.min(...a.AP) - Math.min(...b.AP),
  'easiest first': (a, b) => Math.max(...b.AP) - Math.max(...a.AP),
  'by file name': (a, b) => images.name[a.image].localeCompare(images.name[b.image]),
};

function passes(query, { camera, identity, failures }) {
  if (camera && images.camera[query.image] !== Number(camera)) return false;
  if (identity.trim() && images.identity[query.image] !== Number(identity)) return false;
  return !failures || query.first.some((rank) => rank > 1);
}

function legend() {
  const used = new Set(queries.flatMap((q) => q.lists.flatMap((list) => list.kinds)));
  const meaning = ['the person of the query', 'another person',
    data.has_cameras ? 'the person under the camera of the query, not ranked' : 'not ranked',
    'not ranked'];
  return kinds
    .map(({ sign, word }, i) => used.has(i) ? `${sign} ${word}: ${meaning[i]}.` : '')
    .filter(Boolean).join(' ') + (data.is_cosine ? ' Below each image: cosine similarity.' : '') +
    (Object.keys(data.attention).length ? ' Click on an image of the hardest queries to see Grad-CAM, too.' : '');
}

// How to read the maps of a run, whose ranking may be by something else.
function aboutMaps({ card: { protocol } }) {
  const by = [
    protocol.distance !== 'cosine' && 'Euclidean distances',
    protocol.query && 'averages of several images of a person',
  ].filter(Boolean).join(' of ');
  return 'Grad-CAM of the cosine similarity of the query and one other image, without their' +
    ' mirror images: red raises it most. The map of the query is that of its pair with the chosen' +
    ' image. Each map is scaled to its own maximum; one without red means that no region raises' +
    ' the similarity.' +
    (by && ` This list is ranked by ${by}: the maps do not explain its order.`);
}

// A query with a found image, and with its first true match.
function larges(query, run, cell) {
  const list = query.lists[run];
  const heat = (image) => data.attention[`${query.image}-${image}-${run}`] || [];
  const matchHeat = heat(list.match);
  // The query's map is that of its pair with the chosen image.
  const chosen = cell ? heat(cell.image) : matchHeat;
  const similarity = (x) => data.is_cosine ? `, similarity ${x.toFixed(4)}` : '';
  const parts = [large(query.image, 'query', chosen[0])];
  if (cell) {
    const rank = cell.rank ? `rank ${cell.rank}, ` : '';
    parts.push(large(cell.image,
      `${rank}${cell.kind.sign} ${cell.kind.word}${similarity(cell.similarity)}`, chosen[1]));
  }
  if (!cell || cell.image !== list.match) parts.push(large(list.match,
    `✓ first true match, rank ${query.first[run]}${similarity(list.match_similarity)}`, matchHeat[1]));
  if (chosen.length || matchHeat.length) parts.push(make('p', { class: 'note' }, aboutMaps(runs[run])));
  return parts;
}

function setUpCameras() {
  const cameras = data.has_cameras ? new Set(queries.map((q) => images.camera[q.image])) : [];
  for (const camera of [...cameras].sort((a, b) => a - b))
    controls.camera.append(make('option', { value: camera }, `camera ${camera}`));
  if (!data.has_cameras) controls.camera.parentElement.hidden = true;
}

showCards();
showCharts();
setUpCameras();
showLists({
  kinds, describe, orders, passes, larges,
  legend: legend(),
  note: () => '',
  divider: () => null,
  headings: (query) => runs.map((_, run) => heading(query, run)),
  pairTitle: (query, run) => `${two ? `${runs[run].name}: ` : ''}${score(query.AP[run])}`,
});
