"""A headless Chromium for tests of pages; tests skip where there is none."""

from collections.abc import Iterator
import contextlib
import shutil

import pytest

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


class Browser:
  """A Chromium that opens pages from disk.

  Args:
    chromium: browser of playwright.

  Attributes:
    messages: what pages have printed to the console, the errors of their
      scripts, and the addresses that they asked the network for.
  """

  def __init__(self, chromium):
    self._chromium, self.messages = chromium, []

  def open(self, path, width=1280, **options):
    """Opens a page of a size; returns it as playwright's Page."""
    context = self._chromium.new_context(
      viewport={'width': width, 'height': 900}, offline=True, **options
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on('console', lambda message: self.messages.append(message.text))
    page.on('pageerror', lambda error: self.messages.append(str(error)))
    page.on('request', self._watch)
    page.goto(path.as_uri())
    return page

  def _watch(self, request):
    if not request.url.startswith(('file:', 'data:')):
      self.messages.append(request.url)


@contextlib.contextmanager
def start() -> Iterator[Browser]:
  """Starts the browser, or skips the test with the reason."""
  if CHROMIUM is None:
    pytest.skip('there is no Chromium')
  api = pytest.importorskip('playwright.sync_api')
  with api.sync_playwright() as playwright:
    chromium = playwright.chromium.launch(
      executable_path=CHROMIUM, args=['--no-sandbox']
    )
    yield Browser(chromium)
    chromium.close()
