"""A model card: what a trained network is, from the records of its run.

Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from collections.abc import Mapping
import os
import pathlib

from apnet_jax.config import get_config
from apnet_jax.inference import packing
from apnet_jax.paper import differences
from apnet_jax.retrieval import threshold as thresholds
from apnet_jax.workdir import run_files
from apnet_jax.writing import whole

SUFFIX = '.MODEL_CARD.md'
# Terms of data sets, by the beginnings of their names.
TERMS = {
  'market': 'Market-1501: no license is stated; for research only.',
  'duke': 'DukeMTMC-reID: research only; its authors have withdrawn it.',
  'occluded_duke': (
    'Occluded-DukeMTMC: the license of DukeMTMC, research only; DukeMTMC was'
    ' withdrawn by its authors.'
  ),
  'msmt17': 'MSMT17: research only, under an agreement with its authors.',
  'cuhk03': 'CUHK03: no license is stated; for research only.',
  'synthetic': 'Drawn people: no person is shown.',
}
OWN_DATA = 'Terms are not known: ask those who collected the images.'
USE = """\
## Intended use

Research on person re-identification: finding images of a person among images of
the same place and time, by clothes and build.

Not intended: identifying people, decisions about people without a person who
checks them, and surveillance where the law or those who are seen do not allow
it. Person re-identification is surveillance technology.

## Limits

- Similarity is of appearance. People in like clothes are confused, and a person
  who changes clothes is not found.
- Figures hold for the data set and the rules above. On images of other cameras,
  they are usually much lower; measure them there.
- A threshold holds for the data set on which it was chosen.
- Accuracy by groups of people (age, gender, skin colour) was not measured.
"""


def path_beside(path: str | os.PathLike) -> pathlib.Path:
  """Returns where a file's model card lies: `market.onnx.MODEL_CARD.md`."""
  path = pathlib.Path(path)
  return path.with_name(path.name + SUFFIX)


def write(path: str | os.PathLike, parts: Mapping[str, Mapping]) -> None:
  """Writes a model card.

  Args:
    path: file to write.
    parts: the result of `packing.collect`.
  """
  with whole(pathlib.Path(path).expanduser()) as part:
    part.write_text(text(parts))


def text(parts: Mapping[str, Mapping]) -> str:
  """Returns a model card as Markdown.

  Args:
    parts: the result of `packing.collect`.
  """
  sections = [_network(parts), _data(parts), _figures(parts), USE]
  return '\n'.join(sections)


def _network(parts) -> str:
  config, run = parts[run_files.CONFIG_FILE], parts[run_files.RUN_FILE]
  model = config['model']
  prepared = parts[packing.PREPROCESSING]
  height, width = prepared['height_width']
  started = run.get('started_from') or model.get('pretrained')
  return f"""\
# Model card: APNet, {model['backbone']}

| | |
|---|---|
| network | {model['backbone']}, {model['attention']} attention, \
{model['levels']} levels |
| checkpoint | {parts[packing.CHECKPOINT]['which']}, after step \
{parts[packing.CHECKPOINT]['step']} |
| images | {height}x{width}, RGB, {prepared['resize']}; other sizes and other \
resizing change embeddings |
| embedding | `{prepared['feature']}`\
{', average with the mirror image' * prepared['average_with_mirror_image']} |
| recipe | {_format_training_fields(config)} |
| started from | {started or 'random weights'} |
"""


def _format_training_fields(config: Mapping) -> str:
  """Returns the main fields of the training, and others without defaults."""
  full = get_config()
  full.update(config)
  fields = differences.training_fields(full)
  usual = differences.training_fields(get_config())
  main = (
    ('identities in a batch', 'train.P'), ('images of each', 'train.K'),
    ('epochs', 'train.epochs'), ('learning rate', 'train.learning_rate'),
  )  # fmt: skip
  texts = [f'{name} {differences.show(fields.pop(f))}' for name, f in main]
  texts += [
    f'`{name}={differences.show(value)}`'
    for name, value in fields.items()
    if value != usual.get(name)
  ]
  return ', '.join(texts)


def _data(parts) -> str:
  name = parts[run_files.CONFIG_FILE]['data']['name']
  run = parts[run_files.RUN_FILE]
  terms = '\n'.join(dict.fromkeys(map(_terms, name.split(','))))
  return f"""\
## Training data

`{name}`, {run['num_classes']} identities (fingerprint `{run['fingerprint']}`).

{terms}

No image of it is part of this file.
"""


def _terms(name: str) -> str:
  """Returns the terms of a data set as an item of a list."""
  known = [TERMS[k] for k in TERMS if name.strip().startswith(k)]
  return f'- {known[0] if known else OWN_DATA}'


def _figures(parts) -> str:
  card = parts.get(run_files.RESULT_FILE)
  stored = parts.get(run_files.THRESHOLD_FILE)
  lines = ['## Results', '']
  if card:
    rules = card.get('protocol', {})
    figures = ', '.join(
      f'{name} {100 * card["figures"][name]:.1f}'
      for name in ('mAP', 'mINP', 'Rank-1', 'Rank-5', 'Rank-10')
      if name in card['figures']
    )
    listed = ', '.join(f'{name}: {value}' for name, value in rules.items())
    lines += [
      f'On `{card.get("dataset")}`, in percent: {figures}.', '',
      f'Rules: {listed or "not recorded"}.',
    ]  # fmt: skip
    flip = parts[packing.PREPROCESSING]['average_with_mirror_image']
    if rules.get('flip', flip) != flip:
      lines += ['', 'Embeddings here have another `flip` than these results.']
  else:
    lines.append('Not recorded for this checkpoint.')
  described = (
    thresholds.describe(stored) if stored else 'No threshold is known.'
  )
  return '\n'.join([*lines, '', described, ''])
