"""Reads the text of a compiled program (HLO).

Some of XLA's compilers, as that for GPUs, report no bytes. The text names the
operands and the result of every kernel, so the bytes can be added up.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import math
import re

# Bytes of an element. Types of less than a byte take a whole one.
WIDTHS = {
  'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'f16': 2, 'bf16': 2,
  's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8, 'c64': 8,
}  # fmt: skip
# Instructions that move no data, and second halves of asynchronous ones.
FREE = {
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast',
  'after-all', 'partition-id', 'replica-id', 'optimization-barrier',
}  # fmt: skip
_NAME = r'%?([\w.\-]+)'
_INSTRUCTION = re.compile(
  rf'\s+(?:ROOT )?{_NAME} = (\((?:[^()]|\([^()]*\))*\)|\S+) ([\w\-]+)\((.*)$'
)
_COMPUTATION = re.compile(rf'(?:(ENTRY) )?{_NAME} \(.*\) -> .*\{{$')
_ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\]')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """An instruction of a compiled program.

  Attributes:
    name: name of its result.
    shape: text of the type and shape of its result.
    operation: name of the operation, as 'fusion'.
    operands: names of the operands.
    attributes: text after the operands.
  """

  name: str
  shape: str
  operation: str
  operands: tuple[str, ...]
  attributes: str

  def called(self, *roles: str) -> list[str]:
    """Returns the names of the computations that the instruction calls.

    Args:
      *roles: names of attributes, such as 'body'; their values are the names.
    """
    names = []
    for role in roles:
      value = re.search(rf'\b{role}=(\{{[^}}]*\}}|\S+)', self.attributes)
      names += re.findall(r'%([\w.\-]+)', value[1]) if value else []
    return names


class ProgramText:
  """The computations of a compiled program.

  Args:
    text: result of `as_text()` of a compiled program.

  Attributes:
    computations: the instructions of each computation, by its name.
    entry: name of the computation that runs.
  """

  def __init__(self, text: str):
    self.computations: dict[str, list[Instruction]] = {}
    self.entry = ''
    current = None
    for line in text.splitlines():
      if current is None:
        if head := _COMPUTATION.match(line):
          current = self.computations.setdefault(head[2], [])
          self.entry = head[2] if head[1] else self.entry
      elif line.startswith('}'):
        current = None
      elif instruction := _parse(line):
        current.append(instruction)

  def all_instructions(self) -> Iterator[Instruction]:
    """Yields the instructions of all computations, also of fused ones."""
    for instructions in self.computations.values():
      yield from instructions

  def bytes_accessed(self) -> int:
    """Adds up the operands and results of all kernels.

    The sum is at least what the memory delivers: an operand that a cache still
    holds counts again, and one of which a kernel reads a part counts whole.
    Loops count by their number of iterations where the text states it, and
    conditionals by their most expensive branch.
    """
    return self._bytes_of(self.entry)

  def _bytes_of(self, computation: str) -> int:
    instructions = self.computations.get(computation, [])
    sizes = {i.name: size_of(i.shape) for i in instructions}
    return sum(self._bytes_of_one(i, sizes) for i in instructions)

  def _bytes_of_one(self, i: Instruction, sizes: Mapping[str, int]) -> int:
    if i.operation in FREE or i.operation.endswith('-done'):
      return 0
    match i.operation:
      case 'while':
        count = re.search(r'"known_trip_count":\{"n":"(\d+)"', i.attributes)
        times = int(count[1]) if count else 1
        return times * sum(map(self._bytes_of, i.called('body', 'condition')))
      case 'call':
        return sum(map(self._bytes_of, i.called('to_apply')))
      case 'conditional':
        roles = (
          'branch_computations', 'true_computation', 'false_computation',
        )  # fmt: skip
        return max(map(self._bytes_of, i.called(*roles)), default=0)
    operands = sum(sizes.get(name, 0) for name in i.operands)
    result = sizes[i.name]
    # The tuple of an asynchronous operation mostly repeats its operands.
    repeats = i.operation.endswith('-start') and i.shape.startswith('(')
    if repeats and result > operands:
      result -= operands
    return operands + result


def _parse(line: str) -> Instruction | None:
  found = _INSTRUCTION.match(line)
  if not found:
    return None
  name, shape, operation, rest = found.groups()
  end = _closing(rest)
  operands = tuple(re.findall(r'%([\w.\-]+)', rest[:end]))
  return Instruction(name, shape, operation, operands, rest[end:])


def _closing(text: str) -> int:
  """Returns the position of the parenthesis that closes an open one."""
  depth = 1
  for position, character in enumerate(text):
    depth += {'(': 1, ')': -1}.get(character, 0)
    if not depth:
      return position
  return len(text)


def size_of(shape: str) -> int:
  """Returns the bytes of the arrays in the text of a shape, without padding."""
  return sum(
    WIDTHS.get(kind, 0) * math.prod(_dimensions(dimensions))
    for kind, dimensions in _ARRAY.findall(shape)
  )


def _dimensions(text: str) -> Iterable[int]:
  return (int(number) for number in text.split(',') if number)
