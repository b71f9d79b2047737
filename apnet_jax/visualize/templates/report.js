const { images, runs, queries } = data;
const two = runs.length > 1;
const colours = ['var(--a)', 'var(--b)'];
// Kinds of images: class, sign, word. The order is that of ranked_lists.py.
const kinds = [
  ['right', '✓', 'right'],
  ['wrong', '✗', 'wrong'],
  data.has_cameras ? ['same', '◌', 'same camera'] : ['same', '◌', 'query itself'],
  ['junk', '⊘', 'junk'],
];
const ranked = (kind) => kind < 2;

function picture(image, text = '') {
  return make('img', {
    alt: text, src: `data:image/webp;base64,${images.thumbnail[image]}`,
  });
}

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
    for (const [name, value] of Object.entries(card.figures))
      if (name !== 'cmc') add(name, percent(value, 2));
    for (const part of ['protocol', 'gallery', 'network', 'recipe'])
      for (const [name, value] of Object.entries(card[part] ?? {})) add(`${part}: ${name}`, value);
    place.append(table);
  }
}

function cmcPanel() {
  const lines = runs.map((run, i) => ({
    name: run.name || 'CMC', colour: colours[i], dashed: i > 0,
    points: run.card.figures.cmc.map((y, k) => [k + 1, y]),
  }));
  return panel('CMC: a right image among the first k', lines, {
    x: 'k', y: 'share of the queries',
    yRange: [Math.min(0.99, ...runs.map((run) => run.card.figures.cmc[0])) * 0.98, 1],
  });
}

function camerasPanel(run) {
  const grid = run.card.by_cameras;
  const table = make('table', { class: 'heat' });
  table.append(make('tr', {}, make('th', {}, 'query \\ gallery'),
    ...grid.gallery_cameras.map((c) => make('th', { scope: 'col' }, `c${c}`))));
  grid.mAP.forEach((row, i) => {
    table.append(make('tr', {}, make('th', { scope: 'row' }, `c${grid.query_cameras[i]}`),
      ...row.map((value, j) => value === null
        ? make('td', {}, '–')
        : make('td', {
            title: `${grid.queries[i][j]} queries`,
            style: `background:color-mix(in srgb, var(--a) ${Math.round(70 * value)}%, transparent)`,
          }, (100 * value).toFixed(0)))));
  });
  return make('figure', { class: 'panel' },
    make('h3', {}, title('mAP between cameras, in percent', run)),
    make('div', { class: 'scroll' }, table),
    make('figcaption', {}, 'Each gallery camera alone; a darker cell is better.'));
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
    dashed: name === 'impostor', filled: true,
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
  const start = stored ? stored.here.threshold : equal.threshold;
  const nearest = curve.threshold.reduce((best, t, i) =>
    Math.abs(t - start) < Math.abs(curve.threshold[best] - start) ? i : best, 0);
  const slider = make('input', {
    type: 'range', min: 0, max: curve.threshold.length - 1, value: nearest, 'aria-label': 'threshold',
  });
  const rates = make('p', { 'aria-live': 'polite', class: 'rates' });
  const update = () => {
    const i = Number(slider.value);
    const t = curve.threshold[i];
    const at = figure.svg.place(Math.min(range[1], Math.max(range[0], t)));
    mark.setAttribute('x1', at);
    mark.setAttribute('x2', at);
    slider.setAttribute('aria-valuetext', t.toFixed(3));
    rates.textContent =
      `Threshold ${t.toFixed(4)}: ${percent(curve.tpr[i])} of the pairs of one person are accepted` +
      ` (TPR), and ${number(100 * curve.fpr[i])}% of the pairs of two persons (FPR). ` +
      `${percent(curve.fnir[i])} of the queries miss their person (FNIR); ` +
      `${percent(curve.fpir[i])} would find somebody if it were not in the gallery (FPIR).`;
  };
  slider.addEventListener('input', update);
  update();
  figure.append(slider, rates, make('figcaption', {}, `${curve.threshold.length} thresholds, with exact rates` +
    (stored ? '. The first shown is nearest to the stored threshold.' : '. The first shown is nearest to the equal error rate.')));
  const rocLine = curve.fpr.map((x, i) => [x, curve.tpr[i]]).filter((p) => p[0] > 0);
  const clip = (x) => Math.max(x, 1e-6);
  const errors = [
    { name: 'pairs: FPR, 1 − TPR', colour: 'var(--a)', points: curve.fpr.map((x, i) => [clip(x), 1 - curve.tpr[i]]) },
    { name: 'queries: FPIR, FNIR', colour: 'var(--b)', dashed: true, points: curve.fpir.map((x, i) => [clip(x), curve.fnir[i]]) },
  ];
  return [
    figure,
    panel(title('ROC: accepted pairs', run), [{ colour: 'var(--a)', points: rocLine }],
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

// The cells of a list, in their order; a list is one run's for one query.
function cells(query, list) {
  let rank = 0;
  return list.found.map((image, i) => {
    const kind = list.kinds[i];
    if (ranked(kind)) rank += 1;
    return { image, kind, rank: ranked(kind) ? rank : null, similarity: list.similarity[i] };
  });
}

function cellButton(cell, open) {
  const [name, sign, word] = kinds[cell.kind];
  const rank = cell.rank ? `${cell.rank} ` : '';
  const similarity = data.is_cosine ? make('small', {}, cell.similarity.toFixed(3)) : '';
  return make('button', {
    type: 'button', class: `cell ${name}`, onclick: open,
    title: `${images.name[cell.image]}\n${describe(cell.image)}`,
  },
  make('span', { class: 'frame' }, picture(cell.image)),
  make('span', { class: 'mark' }, `${rank}${sign} ${word}`),
  similarity, make('small', {}, describe(cell.image)));
}

const score = (x) => `AP ${(100 * x).toFixed(1)}`;

function matchText(query, run) {
  const list = query.lists[run];
  const similarity = data.is_cosine ? `, similarity ${list.match_similarity.toFixed(3)}` : '';
  return `the first at rank ${query.first[run]}${similarity}`;
}

function fill(article, query) {
  const name = images.name[query.image];
  article.append(make('h3', {}, `${name} – ${describe(query.image)}`));
  query.lists.forEach((list, run) => {
    const matches = `${query.matches} true match${query.matches === 1 ? '' : 'es'}`;
    const about = `${score(query.AP[run])}, ${matches}, ${matchText(query, run)}`;
    article.append(make('h4', {}, two ? `${runs[run].name}: ${about}` : about));
    const found = cells(query, list);
    const row = make('div', { class: 'row' }, make('button', {
      type: 'button', class: 'cell query', onclick: () => openPair(query, run, null), title: name,
    }, make('span', { class: 'frame' }, picture(query.image)), make('span', { class: 'mark' }, 'query'),
    make('small', {}, describe(query.image))));
    found.forEach((cell, i) => row.append(cellButton(cell, () => openPair(query, run, i))));
    article.append(row);
  });
}

const shown = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const filled = target.childElementCount > 0;
    if (isIntersecting && !filled) fill(target, target.query);
    else if (!isIntersecting && filled && !target.contains(document.activeElement)) {
      target.style.minHeight = `${target.offsetHeight}px`;
      target.replaceChildren();
    }
  }
}, { rootMargin: '600px 0px' });

const controls = document.getElementById('controls');
const lists = document.getElementById('lists');
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

// Whether a query passes the filters. A file name is searched in the lists, too.
function passes(query, { camera, identity, search, failures }) {
  if (camera && images.camera[query.image] !== Number(camera)) return false;
  if (identity.trim() && images.identity[query.image] !== Number(identity)) return false;
  if (failures && query.first.every((rank) => rank === 1)) return false;
  if (!search) return true;
  const has = (image) => images.name[image].toLowerCase().includes(search);
  return has(query.image) || query.lists.some((list) => list.found.some(has));
}

function update() {
  const filters = {
    camera: controls.camera.value,
    identity: controls.identity.value,
    search: controls.search.value.toLowerCase(),
    failures: controls.failures.checked,
  };
  const found = queries.filter((query) => passes(query, filters));
  found.sort(orders[controls.order.value]);
  shown.disconnect();
  lists.replaceChildren(...found.map((query) => {
    const article = make('article', { class: two ? 'two' : null, tabindex: -1 });
    article.query = query;
    return article;
  }));
  for (const article of lists.children) shown.observe(article);
  document.getElementById('count').textContent =
    `${found.length.toLocaleString('en')} of ${queries.length.toLocaleString('en')} queries`;
}

function setUpControls() {
  for (const name of Object.keys(orders)) controls.order.append(make('option', {}, name));
  const cameras = data.has_cameras ? new Set(queries.map((q) => images.camera[q.image])) : [];
  for (const camera of [...cameras].sort((a, b) => a - b))
    controls.camera.append(make('option', { value: camera }, `camera ${camera}`));
  if (!data.has_cameras) controls.camera.parentElement.hidden = true;
  let timer;
  controls.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(update, 120);
  });
  controls.addEventListener('reset', () => setTimeout(update));
  controls.addEventListener('submit', (event) => event.preventDefault());
  const used = new Set(queries.flatMap((q) => q.lists.flatMap((list) => list.kinds)));
  const meaning = ['the person of the query', 'another person',
    data.has_cameras ? 'the person under the camera of the query, not ranked' : 'not ranked',
    'not ranked'];
  document.getElementById('legend').textContent = kinds
    .map(([, sign, word], i) => used.has(i) ? `${sign} ${word}: ${meaning[i]}.` : '')
    .filter(Boolean).join(' ') + (data.is_cosine ? ' Below each image: cosine similarity.' : '');
}

// The dialog with a query and a found image, large.

const dialog = document.getElementById('pair');
let current = null;

function large(image, caption, heat) {
  const figure = make('figure', { class: 'large' }, picture(image, caption));
  if (heat) figure.append(make('img', {
    alt: `attention of ${caption}`, src: `data:image/webp;base64,${heat}`,
  }));
  figure.append(make('figcaption', {}, caption, make('br'), images.name[image],
    make('br'), describe(image)));
  return figure;
}

function openPair(query, run, index) {
  const list = query.lists[run];
  const found = cells(query, list);
  current = { query, run, index, last: found.length - 1, opener: current?.opener || document.activeElement };
  const cell = index === null ? null : found[index];
  const heat = (image) => data.attention[`${query.image}-${image}-${run}`] || [];
  const matchHeat = heat(list.match);
  // The query's map is that of its pair with the chosen image.
  const chosen = cell ? heat(cell.image) : matchHeat;
  const parts = [large(query.image, 'query', chosen[0])];
  if (cell) {
    const [, sign, word] = kinds[cell.kind];
    const similarity = data.is_cosine ? `, similarity ${cell.similarity.toFixed(4)}` : '';
    parts.push(large(cell.image, `${cell.rank ? `rank ${cell.rank}, ` : ''}${sign} ${word}${similarity}`, chosen[1]));
  }
  if (!cell || cell.image !== list.match) parts.push(large(list.match, `✓ first true match, rank ${query.first[run]}${data.is_cosine ? `, similarity ${list.match_similarity.toFixed(4)}` : ''}`, matchHeat[1]));
  dialog.replaceChildren(
    make('h3', {}, `${two ? `${runs[run].name}: ` : ''}${score(query.AP[run])}`),
    make('div', { class: 'larges' }, ...parts),
    make('div', { class: 'buttons' },
      make('button', { type: 'button', onclick: () => move(-1) }, '← previous'),
      make('button', { type: 'button', onclick: () => move(1) }, 'next →'),
      make('button', { type: 'button', onclick: () => dialog.close() }, 'close')));
  if (!dialog.open) dialog.showModal();
}

function move(by) {
  const { query, run, index, last } = current;
  const next = (index === null ? -1 : index) + by;
  openPair(query, run, next < 0 ? null : Math.min(last, next));
}

dialog.addEventListener('close', () => {
  const opener = current?.opener;
  current = null;
  opener?.focus();
});
dialog.addEventListener('click', (event) => {
  if (event.target === dialog) dialog.close();
});

function nextQuery(by) {
  const all = [...lists.children];
  const here = all.findIndex((article) => article.contains(document.activeElement));
  const next = all[Math.max(0, Math.min(all.length - 1, here < 0 ? 0 : here + by))];
  next?.scrollIntoView({ block: 'start' });
  next?.focus();
}

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (dialog.open) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); move(by); }
    return;
  }
  if (/^(input|select)$/i.test(event.target.tagName)) return;
  if (event.key === '/') { event.preventDefault(); controls.search.focus(); }
  if (event.key === 'j') nextQuery(1);
  if (event.key === 'k') nextQuery(-1);
  if (event.key === 'Enter' && event.target.query) openPair(event.target.query, 0, 0);
});

// For print, lists in view stay as they are; others are filled, up to a limit.
window.addEventListener('beforeprint', () => {
  for (const article of [...lists.children].slice(0, 100))
    if (!article.childElementCount) fill(article, article.query);
});

showCards();
showCharts();
setUpControls();
update();
