"""Signals that end a run: SIGTERM, as of a preempted machine, and SIGINT.

While there is nothing to save a signal ends the run at once. In training it is
noted, and the step loop asks after each step. The second one always ends it at
once.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import threading

from apnet_jax import parallel

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
  """A run was ended by a signal.

  Attributes:
    code: what the program ends with: 128 and the signal's number.
  """

  def __init__(self, signum: int, what: str):
    super().__init__(f'{signal.Signals(signum).name}: {what}')
    self.code = 128 + signum


class Interruption:
  """Listens to `SIGNALS` while it is entered; in the main thread alone."""

  def __init__(self):
    self._noted = None  # the signal's number
    self._deferred = False
    self._handlers = {}

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():
      for signum in SIGNALS:
        self._handlers[signum] = signal.signal(signum, self._handle)
    return self

  def __exit__(self, *_):
    for signum, handler in self._handlers.items():
      signal.signal(signum, handler)
    self._handlers = {}

  @contextlib.contextmanager
  def deferred(self) -> Iterator[None]:
    """Within it a signal is noted, and `wanted` tells it."""
    before, self._deferred = self._deferred, True
    try:
      yield
    finally:
      self._deferred = before

  @contextlib.contextmanager
  def at_once(self) -> Iterator[None]:
    """Within it, a signal raises `Interrupted`; one that is noted, too."""
    before, self._deferred = self._deferred, False
    try:
      self.stop_if_noted('nothing more was saved')
      yield
    finally:
      self._deferred = before

  def wanted(self, step: int) -> bool:
    """Whether the run shall end after `step`; the only place that asks.

    All processes of a run ask after each step, and get the same answer.
    """
    return parallel.agree_to_stop(step, self._noted is not None)

  def stop(self, what: str) -> None:
    """Ends the run; `what` says what was saved."""
    raise Interrupted(self._noted or signal.SIGTERM, what)

  def stop_if_noted(self, what: str) -> None:
    if self._noted is not None:
      self.stop(what)

  def _handle(self, signum: int, frame) -> None:
    del frame
    self._noted = signum
    for each in SIGNALS:
      signal.signal(each, signal.SIG_DFL)
    if not self._deferred:
      self.stop('nothing more was saved')
    # Not `print`, which may be what the signal has interrupted.
    name = signal.Signals(signum).name
    text = f'\n{name}: ends after this step; a second signal ends at once\n'
    os.write(2, text.encode())
