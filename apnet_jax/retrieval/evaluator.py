"""Evaluates a network on benchmarks: prints figures, makes result cards."""

from collections.abc import Callable, Mapping

import ml_collections

from apnet_jax.feed import Benchmark
from apnet_jax.parallel import processes
from apnet_jax.retrieval import card, diagnosis, evaluation
from apnet_jax.retrieval.embed import embed_pixels
from apnet_jax.retrieval.threshold import Thresholds


class Evaluator:
  """A network under evaluation, with the results so far.

  Args:
    embed: see `make_embed`.
    variables: variables of the network.
    checkpoint: see `card.checkpoint_entry`.
    thresholds: verifies pairs of images.
    reranks: whether to evaluate again after re-ranking.

  Attributes:
    cards: result cards by the name of the data set.
    figures: rows of a table of figures, by name.
  """

  def __init__(
    self,
    embed: Callable,
    variables: Mapping,
    checkpoint: Mapping,
    thresholds: Thresholds,
    reranks: bool = False,
  ):
    self._embed, self._variables = embed, variables
    self._checkpoint, self._thresholds = checkpoint, thresholds
    self._reranks = reranks
    self.cards, self.figures = {}, {}

  def evaluate(
    self, name: str, config: ml_collections.ConfigDict, benchmark: Benchmark
  ) -> evaluation.Evaluation | None:
    """Evaluates the network on a benchmark.

    Args:
      name: name of the data set in tables and for its card.
      config: the whole configuration, with `data` and `eval` as evaluated.
      benchmark: the benchmark.

    Returns:
      The evaluation; None in processes other than the first, which only embed
      their share of the images.
    """
    print(f'{name}\n{benchmark.summary}', flush=True)
    rules = config.eval
    if rules.pixel_baseline:
      pixels = evaluation.evaluate(embed_pixels, {}, benchmark, rules)
      row = pixels.result.figures(rules.ap)
      self.figures[f'{name}, raw pixels'] = row
    evaluated = evaluation.evaluate(
      self._embed, self._variables, benchmark, rules
    )
    if not processes.is_first():
      return None
    self.figures[name] = evaluated.result.figures(rules.ap)
    reranked = None
    if self._reranks:
      reranked = evaluation.rerank(evaluated, benchmark)
      self.figures[f'{name}, re-ranked'] = reranked.figures(rules.ap)
    verified = self._thresholds.verify(evaluated, config, benchmark)
    diagnosed = diagnosis.diagnose(evaluated, benchmark)
    print('\n'.join(diagnosis.lines(diagnosed)))
    self.cards[name] = card.result_card(
      evaluated.result,
      config,
      benchmark,
      self._checkpoint,
      reranked,
      verified,
      diagnosed,
    )
    return evaluated
