"""Work in threads that a failing program does not wait for."""

from collections.abc import Callable
from concurrent import futures
import os
import sys
import threading
from typing import Any

NAME = 'apnet_jax'  # of these threads


def start(function: Callable[[], Any]) -> futures.Future:
  """Calls a function in a thread.

  Args:
    function: called without arguments.

  Returns:
    A future, whose `result()` waits for the function. It returns what the
    function returned, or raises what it raised.
  """
  future: futures.Future = futures.Future()

  def run():
    try:
      future.set_result(function())
    except BaseException as error:
      future.set_exception(error)

  # Python would end a daemon thread within a call of C++, which aborts.
  threading.Thread(target=run, name=NAME).start()
  return future


def exit_with(code: int) -> None:
  """Ends this process at once if a thread is still at work.

  The usual exit of Python would wait for it. Without such a thread, the
  function returns.
  """
  if any(each.name == NAME for each in threading.enumerate()):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
