"""Scripts of pages under Node.js, with what they need of a browser."""

from collections.abc import Mapping
import json
import re
import shutil
import subprocess

import pytest

needed = pytest.mark.skipif(
  not shutil.which('node'), reason='there is no Node.js'
)
# Elements that are printed as text. One that a script asks for is made if it is
# not there, and so is a field of a form.
DOCUMENT = """
class Element {
  constructor(tag, value = '') {
    Object.assign(this, { tag, value, parts: [], listeners: {}, dataset: {} });
    const classes = new Set();
    this.classList = {
      toggle: (name, has) => {
        classes[has ? 'add' : 'delete'](name);
        this.setAttribute('class', [...classes].join(' '));
      },
    };
    return new Proxy(this, {
      get: (found, name) => name in found || typeof name === 'symbol'
        ? found[name] : (found[name] = new Element(name, FIELDS[name])),
    });
  }
  setAttribute(name, value) {
    this[`@${name}`] = String(value);
    if (name === 'value') this.value = String(value);
  }
  addEventListener(name, listener) { this.listeners[name] = listener; }
  append(...parts) { this.parts.push(...parts); }
  replaceChildren(...parts) { this.parts = parts; }
  get children() { return this.parts; }
  get childElementCount() { return this.parts.length; }
  set textContent(text) { this.parts = [text]; }
  get textContent() { return this.parts.join(''); }
  toString() {
    const attributes = Object.keys(this).filter((name) => name[0] === '@')
      .map((name) => ` ${name.slice(1)}="${this[name]}"`).join('');
    return `<${this.tag}${attributes}>${this.parts.join('')}`;
  }
}
const elements = {};
const element = (id) => (elements[id] ??= new Element(id));
const document = {
  createElement: (tag) => new Element(tag),
  createElementNS: (_, tag) => new Element(tag),
  getElementById: element,
  querySelector: element,
  querySelectorAll: (selector) => CARDS.map((card) => {
    const found = element(`${selector} ${card}`);
    found.dataset.card = card;
    return found;
  }),
  addEventListener() {},
};
const window = document;
class FormData {
  *[Symbol.iterator]() { yield* Object.entries(FIELDS); }
}
class IntersectionObserver {
  constructor(callback) { this.callback = callback; }
  observe(target) { this.callback([{ target, isIntersecting: true }]); }
  disconnect() {}
}
element('data').textContent = DATA;
"""


def run(
  text: str, *shown: str, fields: Mapping[str, str] | None = None
) -> list[str]:
  """Runs the scripts of a page; returns what they make, as text.

  Args:
    text: the page.
    *shown: expressions of what to return, such as `element('ID')`.
    fields: values of fields of forms, by name.
  """
  data, script = re.findall(r'<script.*?>(.*?)</script>', text, re.DOTALL)
  known = {
    'DATA': data,
    'CARDS': re.findall(r'data-card="(\d+)"', text),
    'FIELDS': fields or {},
  }
  node = subprocess.run(
    ['node', '-'],
    input=''.join(
      [
        *(f'const {name} = {json.dumps(x)};\n' for name, x in known.items()),
        DOCUMENT,
        script,
        f'console.log(JSON.stringify([{", ".join(shown)}].map(String)));',
      ]
    ),
    capture_output=True,
    text=True,
  )
  assert node.stderr == ''
  return json.loads(node.stdout)
