"""A run that is killed twenty times ends like an uninterrupted one."""

import collections
import os
import signal
import time

import numpy as np

from tests.faults.runs import EPOCH, records, state, without_times
from tests.preloaded import PATIENCE

# At most nine of the kills let an epoch pass, so that the run ends after them.
STEPS = 9 * EPOCH
FLAGS = (
  '--config.train.eval_every_epochs=1',
  f'--config.train.steps={STEPS}',
)
# Phases of a run, and the number of kills planned in each.
KILLS = {'preparing': 7, 'stepping': 5, 'saving': 4, 'evaluating': 4}


def saved(workdir):
  return [path.name for path in (workdir / 'checkpoints').glob('*')]


def unevaluated(workdir):
  """Returns the last step if an epoch ends with it and it is not evaluated."""
  for last in records(workdir)[-1:]:
    if 'train/loss' in last and last['step'] % EPOCH == 0:
      return last['step']
  return None


def is_saving(workdir):
  """Returns whether a step to evaluate has no whole checkpoint yet."""
  step = unevaluated(workdir)
  return step is not None and str(step) not in saved(workdir)


def is_evaluating(workdir):
  """Returns whether a whole checkpoint lacks its evaluation."""
  return str(unevaluated(workdir)) in saved(workdir)


def doing(workdir, printed):
  """Returns the phase in which a run was killed."""
  if 'Resuming after' not in printed and 'Training:' not in printed:
    return 'preparing'
  if is_saving(workdir):
    return 'saving'
  return 'evaluating' if is_evaluating(workdir) else 'stepping'


def moment(plan, rng, workdir, train):
  """Returns `reached()` and `seconds`: how long after it to kill the run."""
  seconds = 0.0
  if plan == 'preparing':
    texts = ('', 'prepared in', '\n  train ', 'resnet14')
    text = texts[rng.integers(len(texts))]

    def reached():
      return text in train.printed()

    seconds = rng.uniform(0, 0.3)
  elif plan == 'stepping':
    more, before = rng.integers(1, 2 * EPOCH + 3), None

    def reached():
      # A resumed run drops the records after its checkpoint.
      nonlocal before
      if before is None and 'Training:' in train.printed():
        before = len(records(workdir))
      return before is not None and len(records(workdir)) >= before + more

    seconds = rng.uniform(0, 0.1)
  elif plan == 'saving':

    def reached():
      return 'Training:' in train.printed() and is_saving(workdir)

  else:

    def reached():
      return 'Training:' in train.printed() and is_evaluating(workdir)

    seconds = rng.uniform(0, 0.02)
  return reached, seconds


def kill(train, workdir, plan, rng):
  """Kills the run; returns its phase, or None if it had ended."""
  reached, seconds = moment(plan, rng, workdir, train)
  deadline = time.monotonic() + PATIENCE
  while not reached():
    if train.has_ended():
      return None
    assert time.monotonic() < deadline, (plan, train.printed()[-2000:])
    time.sleep(0.001)
  time.sleep(seconds)
  if train.has_ended():
    return None
  os.kill(train.pid, signal.SIGKILL)
  assert train.code() == -signal.SIGKILL
  return doing(workdir, train.printed())


def bits(arrays):
  return {name: array.tobytes() for name, array in arrays.items()}


def test_twenty_kills_change_nothing(train, flags, tmp_path):
  killed, whole = tmp_path / 'killed', tmp_path / 'whole'
  rng = np.random.default_rng(0)
  plans = rng.permutation(np.repeat(list(KILLS), list(KILLS.values())))
  found = collections.Counter()
  for plan in ['preparing', *plans[plans != 'preparing'], *['preparing'] * 6]:
    train.start(*flags, *FLAGS, f'--workdir={killed}')
    what = kill(train, killed, plan, rng)
    assert what is not None, train.printed()[-3000:]
    found[what] += 1
    print(f'meant {plan}, was {what}: {len(records(killed))} records')
  assert found.total() == 20
  assert set(found) == set(KILLS), found

  for workdir in (killed, whole):
    train.start(*flags, *FLAGS, f'--workdir={workdir}')
    assert train.code() == 0, train.printed()[-3000:]
  assert 'Resuming' not in train.printed()
  for which in ('last', 'best'):
    (step, found), (expected_step, expected) = (
      state(workdir, which) for workdir in (killed, whole)
    )
    assert step == expected_step
    assert bits(found) == bits(expected)
  assert sorted(saved(killed)) == sorted(saved(whole))  # no temporary folders
  steps = [*range(1, STEPS + 1), *range(EPOCH, STEPS + 1, EPOCH)]
  assert [r['step'] for r in records(killed)] == sorted(steps)
  assert without_times(killed) == without_times(whole)
  maps = {r['step']: r['eval/mAP'] for r in records(whole) if 'eval/mAP' in r}
  assert maps[state(whole, 'best')[0]] == max(maps.values())
  cards = [(w / 'result.json').read_text() for w in (killed, whole)]
  assert cards[0] == cards[1]
