const palette = [
  'var(--a)', 'var(--b)', 'var(--right)', '#8250df', '#bf3989', '#9a6700',
  '#1b7c83', 'var(--out)',
];

// One run: a colour for each metric. Several: a colour for each run. The metrics
// of a chart differ by their dashes, too.
const several = data.times.length > 1;
const colour = (i) => (data.times.length > palette.length ? distinct(i) : palette[i]);

for (const { title, scale, lines } of data.charts) {
  const drawn = lines.map((line) => ({
    ...line,
    colour: colour(several ? line.run : line.metric),
    dash: dashes[line.metric],
  }));
  document.getElementById('chart-panels').append(
    panel(title, drawn, { x: 'epoch', y: '', yScale: scale }));
}

const names = Object.keys(data.times[0]);
const table = make('table', {}, make('tr', {}, make('th', {}, 'run'),
  ...names.map((name) => make('th', { scope: 'col' }, name))));
data.times.forEach((times, i) => {
  const total = names.reduce((sum, name) => sum + times[name], 0) || 1;
  table.append(make('tr', {}, make('th', { scope: 'row' }, data.runs[i]),
    ...names.map((name) => make('td', {},
      `${times[name].toFixed(1)} s (${percent(times[name] / total, 0)})`))));
});
document.getElementById('times').append(table);
