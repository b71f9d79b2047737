"""Workdirs of finished runs, which nothing has trained."""

import json
import pathlib

from apnet_jax.workdir import json_files


def write_run(folder, config, curve, seed=0, classes=6) -> pathlib.Path:
  """Writes the files of a finished run, and returns its workdir.

  Args:
    folder: the workdir; made if needed.
    config: the whole configuration.
    curve: mAP of each evaluation, by epoch.
    seed: seed of the run.
    classes: number of identities.
  """
  fields = config.to_dict() | {'seed': seed}
  json_files.write_json(folder / 'config.json', fields)
  run = {'num_classes': classes, 'fingerprint': 'noise'}
  json_files.write_json(folder / 'run.json', run)
  json_files.write_json(folder / 'result.json', {})
  records = [{'step': 3, 'train/epoch': 1.0}]
  records += [{'step': 3 * e, 'eval/mAP': v} for e, v in curve.items()]
  lines = ''.join(json.dumps(record) + '\n' for record in records)
  (folder / 'metrics.jsonl').write_text(lines)
  return folder
