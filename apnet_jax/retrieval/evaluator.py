"""Evaluates a network on several benchmarks and collects its result cards."""

from collections.abc import Callable, Mapping
import dataclasses

import ml_collections

from apnet_jax.feed import Benchmark
from apnet_jax.parallel import processes
from apnet_jax.retrieval import card, collapse, diagnosis, evaluation
from apnet_jax.retrieval.embed import embed_pixels
from apnet_jax.retrieval.metrics import RetrievalResult
from apnet_jax.retrieval.threshold import PairVerifier


class Evaluator:
  """Evaluates a network, one benchmark after another.

  Args:
    embed: the result of `make_embed`.
    variables: variables of the network.
    checkpoint: the result of `card.checkpoint_entry`.
    verifier: computes the verification error rates.
    reranks: whether to compute figures after re-ranking, too.
    embeds_junk: whether to embed the junk of galleries too, for ranked lists
      that show it.
    shorten: `shorten(evaluation, benchmark)` returns figures with shorter
      embeddings by way of shortening, as `card.Shorter`; None for none.

  Attributes:
    cards: result cards by name of the data set.
    results: figures by the headings of their rows; see `card.format_table`.
  """

  def __init__(
    self,
    embed: Callable,
    variables: Mapping,
    checkpoint: Mapping,
    verifier: PairVerifier,
    reranks: bool = False,
    embeds_junk: bool = False,
    shorten: Callable | None = None,
  ):
    self._embed, self._variables = embed, variables
    self._checkpoint, self._verifier = checkpoint, verifier
    self._reranks, self._embeds_junk = reranks, embeds_junk
    self._shorten = shorten
    self.cards: dict[str, dict] = {}
    self.results: dict[str, RetrievalResult] = {}

  def evaluate(
    self, name: str, config: ml_collections.ConfigDict, benchmark: Benchmark
  ) -> evaluation.Evaluation | None:
    """Evaluates the network on a benchmark, and prints the main figures.

    Args:
      name: name of the data set in `cards` and `results`.
      config: the whole configuration, with `data` and `eval` as evaluated.
      benchmark: the benchmark.

    Returns:
      The evaluation; None in processes other than the first, which only embed
      their share of the images.

    Raises:
      UserError: no query has a true match, an embedding is not finite, or the
        processes have different images.
    """
    print(f'{name}\n{benchmark.summary}', flush=True)
    rules = config.eval
    if dropped := card.dropped_warning(rules, benchmark):
      print(dropped)
    if rules.pixel_baseline:
      pixels = evaluation.evaluate(embed_pixels, {}, benchmark, rules)
      self.results[f'{name}, raw pixels'] = pixels.result
    evaluated = evaluation.evaluate(
      self._embed, self._variables, benchmark, rules
    )
    if self._embeds_junk:
      junk = evaluation.embed_junk(self._embed, self._variables, benchmark)
      evaluated = dataclasses.replace(evaluated, **junk)
    if not processes.is_first():
      return None
    self.results[name] = evaluated.result
    median = evaluation.stranger_similarity(evaluated, benchmark)
    if collapsed := collapse.describe(median):
      print(f'Warning: {collapsed} {collapse.describe_causes(config.train)}')
    reranked, warning = None, ''
    if self._reranks:
      if warning := evaluation.small_gallery_warning(evaluated):
        print(warning)
      reranked = evaluation.rerank(evaluated, benchmark)
      self.results[f'{name}, re-ranked'] = reranked
    shorter = self._shorten(evaluated, benchmark) if self._shorten else {}
    for way, short in shorter.items():
      self.results[f'{name}, {way}'] = short.result
    verified = self._verifier.verify(evaluated, config, benchmark)
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
      reranked_warning=warning,
      shorter=shorter,
    )
    return evaluated
