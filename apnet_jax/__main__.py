"""Commands of the library:

python -m apnet_jax COMMAND [--help]
"""

import importlib
import sys

from absl import flags

from apnet_jax import cli

# Each module has `command()`, which defines its flags and returns its main.
COMMANDS = {
  'attention': 'apnet_jax.commands.attention',
  'cluster': 'apnet_jax.commands.cluster',
  'compare': 'apnet_jax.commands.compare',
  'complexity': 'apnet_jax.commands.complexity',
  'curves': 'apnet_jax.commands.curves',
  'embed': 'apnet_jax.commands.embed',
  'explain': 'apnet_jax.commands.explain',
  'export': 'apnet_jax.commands.export',
  'export-weights': 'apnet_jax.commands.export_weights',
  'fits': 'apnet_jax.commands.fits',
  'index': 'apnet_jax.commands.index',
  'map': 'apnet_jax.commands.map',
  'pack': 'apnet_jax.commands.pack',
  'push-to-hub': 'apnet_jax.commands.push_to_hub',
  'search': 'apnet_jax.commands.search',
}
RESUMING = ('embed',)  # go on from what an interrupted call has saved


def main() -> None:
  """Runs the command that the first command-line argument names."""
  name, *arguments = sys.argv[1:] or ['--help']
  if name not in COMMANDS:
    print(usage())
    if name not in ('-h', '--help', '--helpshort'):
      print(f'error: {name!r} is not a command', file=sys.stderr)
      sys.exit(2)
    return
  module = importlib.import_module(COMMANDS[name])
  sys.modules['__main__'].__doc__ = module.__doc__  # what --help prints
  sys.argv = [f'python -m apnet_jax {name}', *arguments]
  command = module.command()
  for flag in flags.FLAGS.get_flags_for_module(module.__name__):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # for --help
  cli.run(command, name in RESUMING)


def usage() -> str:
  """Returns the help text, which describes each command in a line."""
  lines = [__doc__]
  for name, module in COMMANDS.items():
    text = importlib.import_module(module).__doc__ or ''
    about, _, _ = text.partition('\n')
    lines.append(f'  {name:16}{about}')
  return '\n'.join(lines)


if __name__ == '__main__':
  main()
