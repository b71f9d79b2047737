"""Trains tiny networks on drawn people, some of them with a part left out.

python -m tests.learning.train_people FOLDER OUTPUT.json [SEED]

Each run goes through `trainer.train` and the data pipeline. `test_learning`
compares the figures of the runs.
"""

from functools import partial
import json
import pathlib
import sys

import flax.linen as nn
import jax
import numpy as np

import apnet_jax
from apnet_jax.models.attention import ChannelAttention
from apnet_jax.models.normalization import normalize
from apnet_jax.retrieval import evaluation
from apnet_jax.retrieval.embed import make_embed
from apnet_jax.training import checks, programs, trainer
from configs import common
from data import pipeline
from data.synthetic import draw
from tests.tiny import tiny_model

WIDTHS, SITES = (16, 32, 64), ('att1', 'att2')
# Fields of `config.train` of each run.
RUNS = {
  'whole': {},
  'no triplet loss': {'triplet_weight': 0.0},
  # Cross-entropy has no weight of its own. The optimiser divides the gradient
  # by its size, so that a large weight of one loss leaves out the other.
  'no cross-entropy': {'triplet_weight': 1e4},
  'no label smoothing': {'label_smoothing': 0.0},
  'no BN neck': {},
  'shuffled labels': {},
}


class NoNorm(nn.Module):
  """A normalisation that leaves its input as it is."""

  @nn.compact
  def __call__(self, x, train):
    return x


def make_model(name, *args, **kwargs):
  """Returns the network of a run; APNet's own normalisation is the neck."""
  model = tiny_model(*args, widths=WIDTHS, **kwargs)
  return model.clone(norm=lambda **_: NoNorm()) if 'neck' in name else model


def make_config(name, raw, seed):
  config = common.get_config()
  config.name, config.seed, config.compilation_cache_dir = 'people', seed, ''
  config.model.update(backbone='resnet14', reduction=2)
  config.data.update(
    name='synthetic', dir=str(raw), image_size=(32, 16), cache='decoded',
    prepared_dir=str(raw.parent / 'prepared'),
  )  # fmt: skip
  config.augment.update(pad=2, erase=0.0)
  config.train.update(
    P=8, K=4, epochs=100, steps=200, warmup_epochs=0, learning_rate=3e-3,
    milestones=(100,), log_every_steps=100, eval_every_epochs=0,
    checkpoint_every_epochs=0,
  )  # fmt: skip
  config.train.update(RUNS[name])
  return config


def shuffle_labels(raw):
  """Copies a data set, with the identities of training images permuted."""
  shuffled = raw.with_name('shuffled')
  (shuffled / draw.TRAIN).mkdir(parents=True)
  for folder in (draw.QUERY, draw.GALLERY):
    (shuffled / folder).symlink_to(raw / folder)
  images = sorted((raw / draw.TRAIN).iterdir())
  pids = np.random.default_rng(0).permutation([i.name[:4] for i in images])
  for image, pid in zip(images, pids):
    (shuffled / draw.TRAIN / (pid + image.name[4:])).hardlink_to(image)
  return shuffled


def choose_weights(params, parts):
  """Returns parameters whose parts of level 2 have the weights of others.

  Args:
    params: parameters of a network.
    parts: for each part, the number of the part whose weights it gets.
  """

  def choose(path, leaf):
    chosen = 'level2' in jax.tree_util.keystr(path)
    return np.asarray(leaf)[list(parts)] if chosen else leaf

  return jax.tree_util.tree_map_with_path(choose, params)


class Trained:
  """A run that has ended, with the means to evaluate its network."""

  def __init__(self, name, raw, seed):
    self.config = make_config(name, raw, seed)
    self.feed = pipeline.load(self.config)
    for module in (checks, programs):
      module.create_model = partial(make_model, name)
    workdir = raw.parent / name
    summary = trainer.train(self.config, self.feed, workdir)
    self.model = make_model(name, self.config.model, self.feed.num_classes)
    self.variables = summary.state.trained_variables
    self.mAP = summary.card['figures']['mAP']

  def evaluate(self, **rules):
    """Evaluates the network by other rules."""
    config = self.config.eval.copy_and_resolve_references()
    config.update(rules)
    embed = make_embed(self.model, config)
    return evaluation.evaluate(embed, self.variables, self.feed, config)

  def evaluate_features(self):
    """Evaluates features before the neck, which the triplet loss acts on."""
    return self.evaluate(feature='feature', distance='euclidean').result.mAP

  def spread_of_logits(self):
    """Returns the standard deviation of an image's logits, a mean over images.

    Label smoothing bounds the logits: Mueller et al., arXiv:1906.02629.
    """
    logits = self.evaluate(feature='logits', distance='euclidean')
    return float(logits.query_embeddings.std(1).mean())

  def difference_of_parts(self):
    """Returns how differently the two parts of level 2 attend the same image.

    A part is given the weights of the other, or both exchange theirs. The
    result is the mean change of their attention over its spread over images;
    the smallest of these cases and of all pyramids.
    """
    attend, params = self._make_attend(), self.variables['params']
    own, changes = attend(params), []
    for weights, given in (((1, 0), (0, 1)), ((1, 1), (0,)), ((0, 0), (1,))):
      others = attend(choose_weights(params, weights))
      for before, after in zip(own, others):
        before, after = before[:, given, :], after[:, given, :]
        changes.append(np.abs(before - after).mean() / before.std(0).mean())
    return float(min(changes))

  def _make_attend(self):
    """Makes a function of parameters, the attention of level 2 on all queries.

    It returns an array [queries, parts, channels of a part] for each pyramid.
    """
    rows = np.arange(len(self.feed.query.pids))
    (images,) = self.feed.query.batches(rows, len(rows))

    @jax.jit
    def apply(params):
      _, seen = self.model.apply(
        {**self.variables, 'params': params},
        normalize(images),
        capture_intermediates=lambda m, _: isinstance(m, ChannelAttention),
        mutable='intermediates',
      )
      scores = [
        seen['intermediates'][site]['level2']['__call__'][0] for site in SITES
      ]
      return [x.reshape(len(rows), 2, -1) for x in scores]

    return lambda params: jax.tree.map(np.asarray, apply(params))

  def similarity_of_strangers(self):
    return evaluation.stranger_similarity(self.evaluate(), self.feed)

  def chance(self):
    """Returns the mAP of random embeddings, a mean over ten draws."""
    query, gallery = self.feed.query, self.feed.gallery
    rng = np.random.default_rng(0)
    results = [
      apnet_jax.evaluate_retrieval(
        query_embeddings=rng.normal(size=(len(query.pids), 8)),
        query_pids=query.pids,
        query_camids=query.camids,
        gallery_embeddings=rng.normal(size=(len(gallery.pids), 8)),
        gallery_pids=gallery.pids,
        gallery_camids=gallery.camids,
      )
      for _ in range(10)
    ]
    return float(np.mean([result.mAP for result in results]))


# Further figures of some runs.
FIGURES = {
  'whole': {
    'features': Trained.evaluate_features,
    'logits': Trained.spread_of_logits,
    'without flip': lambda run: run.evaluate(flip=False).result.mAP,
    'difference of parts': Trained.difference_of_parts,
    'strangers': Trained.similarity_of_strangers,
    'chance': Trained.chance,
  },
  'no triplet loss': {'features': Trained.evaluate_features},
  'no label smoothing': {'logits': Trained.spread_of_logits},
  'no BN neck': {'strangers': Trained.similarity_of_strangers},
}


def main(folder, output, seed='0'):
  folder = pathlib.Path(folder)
  raw = folder / 'drawn'
  draw.draw_dataset(
    raw, train_identities=60, test_identities=40, distractors=0, junk=0,
    progress=False,
  )  # fmt: skip
  shuffled = shuffle_labels(raw)
  figures = {}
  for name in RUNS:
    run = Trained(name, shuffled if 'shuffled' in name else raw, int(seed))
    others = FIGURES.get(name, {})
    figures[name] = {'mAP': run.mAP} | {
      key: figure(run) for key, figure in others.items()
    }
  pathlib.Path(output).write_text(json.dumps(figures, indent=2))


if __name__ == '__main__':
  main(*sys.argv[1:])
