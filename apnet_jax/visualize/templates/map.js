const form = document.querySelector('form');
const near = document.getElementById('near');

// Values in their order get hues that are far apart.
function hues(values) {
  const order = (a, b) => (a < b ? -1 : 1);
  return new Map([...new Set(values)].sort(order).map(
    (value, i) => [value, `hsl(${(i * 137.5) % 360} 70% 50%)`]));
}

function show(i) {
  const camera = data.has_cameras ? `, camera ${data.camera[i]}` : '';
  near.replaceChildren(
    make('img', { alt: '', src: `data:image/webp;base64,${data.thumbnail[i]}` }),
    make('p', {}, data.name[i], make('br'), `identity ${data.identity[i]}${camera}`));
}

const points = data.x.map((x, i) => make('circle', {
  cx: 12 + 976 * x, cy: 608 - 596 * data.y[i], r: 6,
  onpointerenter: () => show(i), onclick: () => show(i),
}));
document.getElementById('map').append(...points);

function update() {
  const values = data[form.colour.value];
  const only = form.only.value.trim();
  const hue = hues(values);
  let number = 0;
  points.forEach((point, i) => {
    const chosen = !only || String(values[i]) === only;
    number += chosen;
    point.setAttribute('fill', hue.get(values[i]));
    point.classList.toggle('faint', !chosen);
  });
  document.getElementById('count').textContent = `${number} of ${points.length} images`;
}

if (!data.has_cameras) form.colour.parentElement.hidden = true;
form.addEventListener('input', update);
form.addEventListener('submit', (event) => event.preventDefault());
update();
