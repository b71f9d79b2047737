import jax
import pytest

from apnet_jax import cli
from apnet_jax.accelerators import topology
from apnet_jax.accelerators.targets import find_target


@pytest.mark.parametrize(
  ('device', 'extra'), [('v5e:2x4', 'tpu'), ('h100', 'cuda')]
)
def test_a_missing_compiler_names_the_extra(device, extra, monkeypatch, capsys):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(SystemExit) as exit, cli.errors_as_messages():
    topology.open_compiler(find_target(device))
  assert exit.value.code == 2
  assert f"pip install '.[{extra}]'" in capsys.readouterr().err


def test_a_failing_compiler_says_which_version_worked(monkeypatch):
  """The way to the compiler for CUDA is not documented, and may change."""

  def fail(**_):
    raise NotImplementedError('topology not implemented for cuda')

  monkeypatch.setattr(topology, 'is_installed', lambda platform: True)
  monkeypatch.setattr(topology.topologies, 'get_topology_desc', fail)
  with pytest.raises(topology.UserError) as error:
    topology.open_compiler(find_target('h100'))
  for text in ('not implemented for cuda', jax.__version__, 'JAX 0.12.0.1'):
    assert text in str(error.value)
