"""A server with the Hub's interface for files, on the loopback."""

import base64
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import functools
import http.server
import json
import pathlib
import threading

import huggingface_hub


class Hub(http.server.BaseHTTPRequestHandler):
  """Answers requests for files; `server.files` are those of repositories.

  Repositories in `server.public` are public, others are private.
  """

  def do_HEAD(self):
    self.answer(body=False)

  def do_GET(self):
    if not self.path.startswith('/api/models/'):
      self.answer(body=True)
      return
    name = self.path.removeprefix('/api/models/')
    about = {'id': name, 'private': name not in self.server.public}
    self.send_response(200)
    self.end_headers()
    self.wfile.write(json.dumps(about).encode())

  def do_POST(self):
    lines = self.rfile.read(int(self.headers['Content-Length'])).splitlines()
    content = [json.loads(line) for line in lines]
    if self.path.endswith('/commit/main'):
      files = [c['value'] for c in content if c['key'] == 'file']
      self.server.uploaded |= {
        file['path']: base64.b64decode(file['content']) for file in files
      }
    elif self.path == '/api/repos/create':
      self.server.created.append(content[0])
    self.send_response(200)
    self.end_headers()
    modes = [
      {'path': file['path'], 'uploadMode': 'regular', 'shouldIgnore': False}
      for file in content[0].get('files', ())
    ]
    url = f'http://127.0.0.1:{self.server.server_port}/owner/name'
    answer = {
      'files': modes, 'url': url, 'commitUrl': f'{url}/commit/c',
      'commitOid': 'c' * 40,
    }  # fmt: skip
    self.wfile.write(json.dumps(answer).encode())

  def answer(self, body):
    self.server.asked.append(self.path)
    repository, _, rest = self.path[1:].partition('/resolve/')
    name = rest.rpartition('/')[2]
    files = self.server.files.get(repository, ())
    found = [file.read_bytes() for file in files if file.name == name]
    self.send_response(200 if found else 404)
    if not found:
      missing = 'EntryNotFound' if files else 'RepoNotFound'
      if repository in self.server.gated:
        missing = 'GatedRepo'
      self.send_header('X-Error-Code', missing)
    self.send_header('X-Repo-Commit', 'c' * 40)
    self.send_header('ETag', '"e"')
    content = found[0] if found else b''
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if body:
      self.wfile.write(content)

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def serving(
  files: Mapping[str, Sequence[pathlib.Path]],
  cache: pathlib.Path,
  monkeypatch,
) -> Iterator[http.server.ThreadingHTTPServer]:
  """Runs `Hub`, from which huggingface_hub then downloads.

  Args:
    files: files by repository.
    cache: folder for downloads.
    monkeypatch: pytest's.

  Yields:
    The server. `asked` lists the paths of requests for files, `created` the
    repositories that were made, and `uploaded` has files by name. Add those
    that are public to `public`, and those that only some may read to `gated`.
  """
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
  server.files, server.asked = files, []
  server.created, server.uploaded = [], {}
  server.public, server.gated = set(), set()
  threading.Thread(target=server.serve_forever, daemon=True).start()
  address = f'http://127.0.0.1:{server.server_port}'
  download = functools.partial(
    huggingface_hub.hf_hub_download, endpoint=address, cache_dir=cache
  )
  monkeypatch.setattr(huggingface_hub, 'hf_hub_download', download)
  api = functools.partial(huggingface_hub.HfApi, address, token='t')
  monkeypatch.setattr(huggingface_hub, 'HfApi', api)
  try:
    yield server
  finally:
    server.shutdown()
    server.server_close()
