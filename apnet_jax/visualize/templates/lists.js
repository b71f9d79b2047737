// Lists of images, one or two for each query, with filters and a dialog. The
// script of a page calls `showLists` with a view:
//   kinds      of images: name (a class), sign, word, whether it is ranked
//   legend     text that explains the kinds
//   describe   (image) => the text below it
//   headings   (query) => the heading of each of its lists
//   note       (list, place) => text below the similarity of the image there
//   divider    (list, place) => an element before the image there, or null
//   orders     of the queries, by name: functions that compare two
//   passes     (query, values of the filters by name) => whether it is shown
//   pairTitle  (query, run) => the heading of the dialog
//   larges     (query, run, cell) => its figures; the cell is null for the query
// A list is that of one run for one query.
const { images, queries } = data;
const controls = document.getElementById('controls');
const lists = document.getElementById('lists');
const dialog = document.getElementById('pair');
// What the dialog shows changes at each step. Its buttons stay, with the focus.
const pair = make('div', { 'aria-live': 'polite' });
dialog.append(pair, make('div', { class: 'buttons' },
  make('button', { type: 'button', onclick: () => move(-1) }, '← previous'),
  make('button', { type: 'button', onclick: () => move(1) }, 'next →'),
  make('button', { type: 'button', onclick: () => dialog.close() }, 'close')));
let view = null;
let current = null; // the place of what the dialog shows

// An image, or the reason that there is none.
function picture(image, text = '') {
  const thumbnail = images.thumbnail[image];
  return thumbnail
    ? make('img', { alt: text, src: `data:image/webp;base64,${thumbnail}` })
    : make('span', { class: 'missing' }, images.problem[image]);
}

function cells(list) {
  let rank = 0;
  return list.found.map((image, i) => {
    const kind = view.kinds[list.kinds[i]];
    if (kind.ranked) rank += 1;
    return { image, kind, place: i, rank: kind.ranked ? rank : null, similarity: list.similarity[i] };
  });
}

function cellButton(list, cell, open) {
  const { name, sign, word } = cell.kind;
  const rank = cell.rank ? `${cell.rank} ` : '';
  const similarity = data.is_cosine ? make('small', {}, cell.similarity.toFixed(3)) : '';
  return make('button', {
    type: 'button', class: `cell ${name}`, onclick: open,
    title: `${images.name[cell.image]}\n${view.describe(cell.image)}`,
  },
  make('span', { class: 'frame' }, picture(cell.image)),
  make('span', { class: 'mark' }, `${rank}${sign} ${word}`),
  similarity, make('small', {}, view.note(list, cell.place)),
  make('small', { class: 'about' }, view.describe(cell.image)));
}

function fill(article, query) {
  const name = images.name[query.image];
  const about = view.describe(query.image);
  article.append(make('h3', {}, about ? `${name} – ${about}` : name));
  const headings = view.headings(query);
  query.lists.forEach((list, run) => {
    if (headings[run]) article.append(make('h4', {}, headings[run]));
    const row = make('div', { class: 'row' }, make('button', {
      type: 'button', class: 'cell query', onclick: () => openPair(query, run, null), title: name,
    }, make('span', { class: 'frame' }, picture(query.image)), make('span', { class: 'mark' }, 'query'),
    make('small', { class: 'about' }, about)));
    cells(list).forEach((cell, i) => {
      row.append(view.divider(list, i) || '', cellButton(list, cell, () => openPair(query, run, i)));
    });
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

// Whether a file name of a query or of its lists has this text.
function hasName(query, search) {
  const has = (image) => images.name[image].toLowerCase().includes(search);
  return has(query.image) || query.lists.some((list) => list.found.some(has));
}

function updateLists() {
  const filters = Object.fromEntries(new FormData(controls));
  const search = filters.search.toLowerCase();
  const found = queries.filter((query) =>
    view.passes(query, filters) && (!search || hasName(query, search)));
  found.sort(view.orders[filters.order]);
  shown.disconnect();
  lists.replaceChildren(...found.map((query) => {
    const article = make('article', { class: query.lists.length > 1 ? 'two' : null, tabindex: -1 });
    article.query = query;
    return article;
  }));
  for (const article of lists.children) shown.observe(article);
  document.getElementById('count').textContent =
    `${found.length.toLocaleString('en')} of ${queries.length.toLocaleString('en')} queries`;
}

// The dialog with a query and a found image, large.

function large(image, caption, heat) {
  const figure = make('figure', { class: 'large' }, picture(image, caption));
  if (heat) figure.append(make('img', {
    alt: `Grad-CAM of ${caption}`, src: `data:image/webp;base64,${heat}`,
  }), make('figcaption', {}, 'Grad-CAM'));
  figure.append(make('figcaption', {}, caption, make('br'), images.name[image],
    make('br'), view.describe(image)));
  return figure;
}

function openPair(query, run, index) {
  const found = cells(query.lists[run]);
  current = { query, run, index, last: found.length - 1, opener: current?.opener || document.activeElement };
  pair.replaceChildren(
    make('h3', {}, view.pairTitle(query, run)),
    make('div', { class: 'larges' }, ...view.larges(query, run, index === null ? null : found[index])));
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
function fillForPrint(limit = 100) {
  const all = [...lists.children];
  for (const article of all.slice(0, limit))
    if (!article.childElementCount) fill(article, article.query);
  const left = all.filter((article) => !article.childElementCount).length;
  document.getElementById('left-out').textContent =
    left ? `The lists of ${left.toLocaleString('en')} more queries are not printed.` : '';
}
window.addEventListener('beforeprint', () => fillForPrint());

function showLists(chosen) {
  view = chosen;
  for (const name of Object.keys(view.orders)) controls.order.append(make('option', {}, name));
  document.getElementById('legend').textContent = view.legend;
  let timer;
  controls.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(updateLists, 120);
  });
  controls.addEventListener('reset', () => setTimeout(updateLists));
  controls.addEventListener('submit', (event) => event.preventDefault());
  updateLists();
}
