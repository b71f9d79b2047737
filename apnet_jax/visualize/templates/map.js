const form = document.querySelector('form');
const near = document.getElementById('near');

// Neighbouring numbers get hues that are far apart.
const hue = (number) => `hsl(${(number * 137.5) % 360} 70% 50%)`;

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
  let number = 0;
  points.forEach((point, i) => {
    const chosen = !only || values[i] === Number(only);
    number += chosen;
    point.setAttribute('fill', hue(values[i]));
    point.classList.toggle('faint', !chosen);
  });
  document.getElementById('count').textContent = `${number} of ${points.length} images`;
}

if (!data.has_cameras) form.colour.parentElement.hidden = true;
form.addEventListener('input', update);
form.addEventListener('submit', (event) => event.preventDefault());
update();
