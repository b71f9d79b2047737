"""Recipes of other work, which change how the paper's network is trained.

They are rows of a table of their own (`tables.py`), which the paper does not
have. docs/recipes.md names their sources.
"""

from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]  # of the configuration, by dotted name

_ONE_BY_ONE: dict[str, Fields] = {
  'cosine': {'train.schedule': 'cosine'},
  'clip_norm': {'train.clip_norm': 5.0},
  'circle_beside': {'train.circle_weight': 0.1},
  'circle_instead': {'train.circle_weight': 0.1, 'train.triplet_weight': 0.0},
  'center': {'train.center_weight': 5e-4},
  'jitter': {'augment.jitter': 0.5},
  'augmix': {'augment.augmix': 3.0},
  'ema': {'train.ema_decay': 0.99},
}
RECIPES: dict[str, Fields] = {
  **_ONE_BY_ONE,
  'all': {  # beside the triplet loss
    name: value
    for recipe, fields in _ONE_BY_ONE.items()
    if recipe != 'circle_instead'
    for name, value in fields.items()
  },
}
