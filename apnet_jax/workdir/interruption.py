"""Signals that end a run: SIGTERM, as on a preempted machine, and SIGINT.

While nothing needs saving, a signal ends the run at once. During training, the
signal is recorded, and the training loop looks for a record after each step. A
second signal ends the run at once, or after the computation in which a process
waits for others.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import threading
from typing import NoReturn

from apnet_jax.parallel import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
  """A signal has ended the run.

  Attributes:
    code: exit code of the program: 128 plus the number of the signal.
  """

  def __init__(self, signum: int, what: str):
    super().__init__(f'{signal.Signals(signum).name}: {what}')
    self.code = 128 + signum


class Interruption:
  """A context manager that handles `SIGNALS`, in the main thread only."""

  def __init__(self):
    self._received = None  # number of the signal
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
    """Records signals within the block; `wanted` then returns True."""
    before, self._deferred = self._deferred, True
    try:
      yield
    finally:
      self._deferred = before

  @contextlib.contextmanager
  def at_once(self) -> Iterator[None]:
    """Raises `Interrupted` for a signal recorded before or within the block.

    The signal's handler raises in the middle of any code. A library may catch
    this and raise another error, which counts as the signal, too.
    """
    before, self._deferred = self._deferred, False
    try:
      self._stop_if_received()
      yield
    except Exception:
      self._stop_if_received()
      raise
    finally:
      self._deferred = before

  def wanted(self, step: int) -> bool:
    """Returns whether the run must end after `step`.

    All processes of a run call this after every step and get the same answer.
    """
    return processes.agree_to_stop(step, self._received is not None)

  def stop(self, what: str) -> NoReturn:
    """Raises `Interrupted`; `what` tells the user what was saved."""
    raise Interrupted(self._received or signal.SIGTERM, what)

  def _stop_if_received(self) -> None:
    if self._received is not None:
      self.stop('nothing more was saved')

  def _handle(self, signum: int, frame) -> None:
    del frame
    self._received = signum
    for each in SIGNALS:
      signal.signal(each, signal.SIG_DFL)
    if not self._deferred:
      self._stop_if_received()
    # `print` may be what the signal has interrupted, so it must not be used.
    text = (
      f'\n{signal.Signals(signum).name} received: training stops after this'
      ' step; a second signal stops it at once\n'
    )
    os.write(2, text.encode())
