"""Keeps a Python process from the network, and tells of each attempt.

A folder on PYTHONPATH that holds this file is enough. The loopback is allowed;
attempts are refused, and listed in the file $ATTEMPTS.
"""

import os
import sys

LOOPBACK = ('127.', '::1', 'localhost')


def _look(event, arguments):
  if event in ('socket.connect', 'socket.sendto', 'socket.sendmsg'):
    address = arguments[1]
    host = address[0] if isinstance(address, tuple) else ''  # or a local file
  elif event in ('socket.getaddrinfo', 'socket.gethostbyname'):
    host = arguments[0] or ''
  else:
    return
  host = host.decode() if isinstance(host, bytes) else str(host)
  if host and not host.startswith(LOOPBACK):
    with open(os.environ['ATTEMPTS'], 'a') as file:
      file.write(f'{event} {host}\n')
    raise OSError(f'{event} of {host}: tests have no network')


sys.addaudithook(_look)
