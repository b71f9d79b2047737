"""A server with the Hub's interface for downloads, on the loopback."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import functools
import http.server
import pathlib
import threading

import huggingface_hub


class Hub(http.server.BaseHTTPRequestHandler):
  """Answers requests for files; `server.files` are those of repositories."""

  def do_HEAD(self):
    self.answer(body=False)

  def do_GET(self):
    self.answer(body=True)

  def answer(self, body):
    self.server.asked.append(self.path)
    repository, _, rest = self.path[1:].partition('/resolve/')
    name = rest.rpartition('/')[2]
    files = self.server.files.get(repository, ())
    found = [file.read_bytes() for file in files if file.name == name]
    self.send_response(200 if found else 404)
    if files and not found:
      self.send_header('X-Error-Code', 'EntryNotFound')
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
    The server, whose `asked` lists the paths of requests.
  """
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
  server.files, server.asked = files, []
  threading.Thread(target=server.serve_forever, daemon=True).start()
  download = functools.partial(
    huggingface_hub.hf_hub_download,
    endpoint=f'http://127.0.0.1:{server.server_port}',
    cache_dir=cache,
  )
  monkeypatch.setattr(huggingface_hub, 'hf_hub_download', download)
  yield server
  server.shutdown()
  server.server_close()
