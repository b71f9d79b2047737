const form = document.querySelector('form');
const near = document.getElementById('near');
const map = document.getElementById('map');
const LEGEND = 16; // with more values, colours are too alike for a legend
let current = -1; // the image that is shown
let chosen = []; // the images that pass the filter

// Cameras of a CSV file are texts: 2 comes before 10 all the same.
const { compare } = new Intl.Collator('en', { numeric: true });

function coloursOf(values) {
  return new Map([...new Set(values)].sort(compare).map(
    (value, i) => [value, distinct(i)]));
}

function show(i) {
  points[current]?.classList.toggle('current', false);
  points[i].classList.toggle('current', true);
  current = i;
  const camera = data.has_cameras ? `, camera ${data.camera[i]}` : '';
  near.replaceChildren(
    make('img', { alt: '', src: `data:image/webp;base64,${data.thumbnail[i]}` }),
    make('p', {}, data.name[i], make('br'), `identity ${data.identity[i]}${camera}`));
}

// The points fill the picture, 1000 by 620, up to a margin, by one scale.
const width = (values) => Math.max(...values) - Math.min(...values);
const unit = Math.max(width(data.x) / 976, width(data.y) / 596) || 1;
const points = data.x.map((x, i) => make('circle', {
  cx: 500 + (x - 0.5) / unit, cy: 310 - (data.y[i] - 0.5) / unit, r: 6,
  onpointerenter: () => show(i), onclick: () => show(i),
}));
map.append(...points);

function update() {
  const values = data[form.colour.value];
  const only = form.only.value.trim();
  const colours = coloursOf(values);
  const passes = (i) => !only || String(values[i]) === only;
  chosen = [...points.keys()].filter(passes);
  points.forEach((point, i) => {
    point.setAttribute('fill', colours.get(values[i]));
    point.classList.toggle('faint', !passes(i));
  });
  document.getElementById('count').textContent = `${chosen.length} of ${points.length} images`;
  const legend = colours.size > LEGEND ? [`${colours.size} colours: too many for a legend.`]
    : [...colours].map(([value, colour]) => make(
      'span', {}, make('i', { style: `background:${colour}` }), `${form.colour.value} ${value}`));
  document.getElementById('colours').replaceChildren(...legend);
}

map.addEventListener('keydown', (event) => {
  const next = {
    ArrowRight: () => chosen.find((i) => i > current),
    ArrowLeft: () => chosen.findLast((i) => i < current),
  }[event.key];
  if (!next) return;
  event.preventDefault();
  const i = next();
  if (i !== undefined) show(i);
});
if (!data.has_cameras) form.colour.parentElement.hidden = true;
form.addEventListener('input', update);
form.addEventListener('submit', (event) => event.preventDefault());
update();
