"""Hand-made results of `benchmarks.ablations`."""


def make_line(
  variant='apnet_c2', seed=0, ap=(0.5, 0.7), target=None, **changes
):
  """Returns a line of results.jsonl.

  Args:
    variant: name of the network.
    seed: seed of the run.
    ap: average precision of each query.
    target: name of the folder of a target.
    **changes: other fields of the line, and `card_NAME`, fields of its card.
  """
  card = {
    'dataset': 'market1501',
    'fingerprint': 'abc',
    'as_published': False,
    'protocol': {'ap': 'step'},
    'gallery': {'distractors': 0},
    'checkpoint': {
      'step': 9,
      'which': 'last',
      'trained_on': {'dataset': 'market1501', 'fingerprint': 'abc'},
      'started_from': None,
    },
    'figures': {
      'mAP': sum(ap) / len(ap),
      'Rank-1': ap[0],
      'Rank-5': 1.0,
    },
    'queries': {
      'valid': len(ap),
      'skipped': 0,
      'names': 'q',
      'people': list(range(len(ap))),
      'figures': {'mAP': list(ap)},
    },
    'network': {'backbone': 'resnet14', 'image_size': [64, 32]},
  }
  card |= {
    name.removeprefix('card_'): value
    for name, value in changes.items()
    if name.startswith('card_')
  }
  line = {
    'variant': variant,
    'seed': seed,
    'target': target,
    'images': 'photos',
    'recipe': 'r',
    'configuration': f'{variant}{seed}',
  }
  others = {k: v for k, v in changes.items() if not k.startswith('card_')}
  return line | others | {'card': card}
