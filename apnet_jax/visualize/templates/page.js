const data = JSON.parse(document.getElementById('data').textContent);

// Makes an element; text and attributes are never parsed as HTML.
function make(tag, attributes = {}, ...children) {
  const svg = ['svg', 'path', 'line', 'text', 'rect', 'circle', 'g', 'title'];
  const element = svg.includes(tag)
    ? document.createElementNS('http://www.w3.org/2000/svg', tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const percent = (x, digits = 1) => `${(100 * x).toFixed(digits)}%`;

function number(x) {
  if (x === 0) return '0';
  const size = Math.abs(x);
  return size >= 1e5 || size < 1e-3
    ? x.toExponential(1)
    : String(Number(x.toPrecision(4)));
}

// `around` is the range of an axis on which all values are equal.
const scales = {
  linear: { forward: (x) => x, ticks: linearTicks, around: (x) => [x - 0.5, x + 0.5] },
  log: { forward: Math.log10, ticks: logTicks, around: (x) => [x / 2, 2 * x] },
};

function linearTicks(low, high) {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((s) => s * power >= rough) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    ticks.push(i * step);
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  const last = Math.floor(Math.log10(high) + 1e-9);
  for (let i = Math.ceil(Math.log10(low) - 1e-9); i <= last; i++)
    ticks.push(10 ** i);
  return ticks.length > 1 ? ticks : linearTicks(low, high).filter((x) => x > 0);
}

// Dashes of the first lines of a chart, which tell them apart without colours.
const dashes = [null, '6 4', '2 3', '8 3 2 3'];

// Colours of any number of things, in their order: neighbours have hues that are
// far apart, and those of similar hue, as the first and the ninth, differ in
// lightness.
const distinct = (i) => `hsl(${(i * 137.5) % 360} 70% ${[50, 36, 64][i % 3]}%)`;

// Draws lines as SVG. Each line has points [x, y] and a colour, and may have a
// dash, one of `dashes`, or be filled. Options: x and y, names of the axes;
// xScale, yScale; xRange, yRange; label, a description of the chart.
function chart(lines, options) {
  const [width, height, left, top, right, bottom] = [560, 290, 62, 12, 14, 46];
  const axes = {};
  for (const [i, axis] of ['x', 'y'].entries()) {
    const scale = scales[options[`${axis}Scale`] || 'linear'];
    let range = options[`${axis}Range`];
    if (!range) {
      const values = lines.flatMap((line) => line.points.map((p) => p[i]));
      range = [
        values.reduce((a, b) => Math.min(a, b), Infinity),
        values.reduce((a, b) => Math.max(a, b), -Infinity),
      ];
      if (range[0] === range[1]) range = scale.around(range[0]);
    }
    const [low, high] = range.map(scale.forward);
    const [from, to] = i ? [height - bottom, top] : [left, width - right];
    axes[axis] = {
      place: (v) => from + ((scale.forward(v) - low) / (high - low)) * (to - from),
      ticks: scale.ticks(...range),
    };
  }
  const { x, y } = axes;
  const svg = make('svg', {
    viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': options.label,
  });
  for (const tick of x.ticks) {
    const at = x.place(tick);
    svg.append(
      make('line', { class: 'grid', x1: at, x2: at, y1: top, y2: height - bottom }),
      make('text', { x: at, y: height - bottom + 17, 'text-anchor': 'middle' }, number(tick)),
    );
  }
  for (const tick of y.ticks) {
    const at = y.place(tick);
    svg.append(
      make('line', { class: 'grid', x1: left, x2: width - right, y1: at, y2: at }),
      make('text', { x: left - 6, y: at + 4, 'text-anchor': 'end' }, number(tick)),
    );
  }
  svg.append(
    make('text', { x: (left + width) / 2, y: height - 6, 'text-anchor': 'middle' }, options.x),
    make('text', {
      transform: `translate(13 ${(height - bottom) / 2}) rotate(-90)`, 'text-anchor': 'middle',
    }, options.y),
  );
  for (const line of lines) {
    if (!line.points.length) continue;
    const path = line.points
      .map((p, i) => `${i ? 'L' : 'M'}${x.place(p[0]).toFixed(1)} ${y.place(p[1]).toFixed(1)}`)
      .join('');
    svg.append(make('path', {
      d: path, stroke: line.colour, 'stroke-width': 2,
      fill: line.filled ? line.colour : 'none', 'fill-opacity': 0.25,
      'stroke-dasharray': line.dash ?? null,
    }));
    if (line.points.length === 1)
      svg.append(make('circle', {
        cx: x.place(line.points[0][0]), cy: y.place(line.points[0][1]), r: 3, fill: line.colour,
      }));
  }
  svg.place = x.place;
  return svg;
}

// A chart with a heading, and a legend if there are several lines.
function panel(title, lines, options) {
  const svg = chart(lines, { label: title, ...options });
  const figure = make('figure', { class: 'panel' }, make('h3', {}, title), svg);
  figure.svg = svg;
  if (lines.length > 1) {
    const legend = make('figcaption');
    for (const line of lines) {
      legend.append(
        make('svg', { class: 'key', viewBox: '0 0 32 4', 'aria-hidden': true }, make('line', {
          x1: 0, x2: 32, y1: 2, y2: 2, stroke: line.colour, 'stroke-width': 3,
          'stroke-dasharray': line.dash ?? null,
        })),
        `${line.name} \u2003`,
      );
    }
    figure.append(legend);
  }
  return figure;
}
