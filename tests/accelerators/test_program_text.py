import jax
import numpy as np
import pytest

from apnet_jax.accelerators.program_text import ProgramText, size_of

# A program in the form of XLA's, of all kinds of instructions that count.
TEXT = """HloModule jit_step, is_scheduled=true

%fused (p: f32[10]) -> f32[10] {
  %p = f32[10]{0} parameter(0)
  ROOT %inside = f32[10]{0} negate(%p)
}

%body (arg: (s32[], f32[10])) -> (s32[], f32[10]) {
  %arg = (s32[], f32[10]{0}) parameter(0)
  %value = f32[10]{0} get-tuple-element(%arg), index=1
  %next = f32[10]{0} fusion(%value), kind=kLoop, calls=%fused
  ROOT %pair = (s32[], f32[10]{0}) tuple(%value, %next)
}

%condition (arg.1: (s32[], f32[10])) -> pred[] {
  %arg.1 = (s32[], f32[10]{0}) parameter(0)
  %i = s32[] get-tuple-element(%arg.1), index=0
  ROOT %less = pred[] compare(%i, %i), direction=LT
}

%cheap (c: f32[10]) -> f32[1] {
  %c = f32[10]{0} parameter(0)
  ROOT %first = f32[1]{0} slice(%c), slice={[0:1]}
}

%dear (d: f32[10]) -> f32[1] {
  %d = f32[10]{0} parameter(0)
  %copied = f32[10]{0} copy(%d)
  ROOT %last = f32[1]{0} slice(%copied), slice={[9:10]}
}

ENTRY %main (a: f32[10], b: bf16[2,3]) -> f32[1] {
  %a = f32[10]{0:T(8,128)} parameter(0), metadata={op_name="x(y)"}
  %b = bf16[2,3]{1,0} parameter(1)
  %init = (s32[], f32[10]{0}) tuple(%a, %a)
  %loop = (s32[], f32[10]{0}) while(%init), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"4"}}
  %out = f32[10]{0} get-tuple-element(%loop), index=1
  %conv = (bf16[2,3]{1,0}, u8[64]{0}) custom-call(%b, /*index=1*/%b), \
custom_call_target="__cudnn$convForward"
  %start = ((f32[10]{0}), f32[10]{0}) all-reduce-start(%out), to_apply=%sum
  %done = f32[10]{0} all-reduce-done(%start)
  %branch = f32[1]{0} conditional(%i, %done, %done), \
branch_computations={%cheap, %dear}
  ROOT %called = f32[1]{0} call(%done), to_apply=%cheap
}
"""
LOOP = 4 * (40 + 40 + 1 + 4 + 4)
CONVOLUTION = 12 + 64 + 12 + 12
ALL_REDUCE = 40 + 40
DEAR = 40 + 40 + 40 + 4
CHEAP = 40 + 4


def test_operands_and_results_of_kernels_count():
  program = ProgramText(TEXT)
  assert program.entry == 'main'
  expected = LOOP + CONVOLUTION + ALL_REDUCE + DEAR + CHEAP
  assert program.bytes_accessed() == expected


@pytest.mark.parametrize(
  ('shape', 'operation', 'operands', 'size'),
  [
    ('f32[10]{0}', 'all-reduce-start', 'a', 40 + 40),
    ('(f32[10]{0}, f32[6]{0})', 'all-reduce-start', 'a, b', 64 + 64),
    ('((f32[10]{0}, f32[6]{0}), (f32[10]{0}, f32[6]{0}))',
     'all-reduce-start', 'a, b', 64 + 64),
    ('(f32[10]{0}, f32[80]{0})', 'all-gather-start', 'a', 40 + 320),
    ('((f32[10]{0}), f32[2]{0})', 'reduce-scatter-start', 'a', 40 + 8),
    # The last number is that of the transfer.
    ('(f32[10]{0}, f32[10]{0}, u32[])', 'copy-start', 'a', 40 + 40 + 4),
  ],
)  # fmt: skip
def test_operands_of_what_is_started_count_once(
  shape, operation, operands, size
):
  names = ', '.join(f'%{name}' for name in operands.split(', '))
  text = f"""ENTRY %main (a: f32[10], b: f32[6]) -> f32[10] {{
  %a = f32[10]{{0}} parameter(0)
  %b = f32[6]{{0}} parameter(1)
  ROOT %start = {shape} {operation}({names}), to_apply=%sum
}}
"""
  assert ProgramText(text).bytes_accessed() == size


def test_fused_instructions_are_found_but_cost_nothing():
  program = ProgramText(TEXT)
  assert 'negate' in {i.operation for i in program.all_instructions()}
  assert (
    program.bytes_accessed()
    == ProgramText(TEXT.replace('negate(%p)', 'add(%p, %p)')).bytes_accessed()
  )


@pytest.mark.parametrize(
  ('shape', 'size'),
  [
    ('f32[]', 4),
    ('bf16[2,3]{1,0:T(8,128)(2,1)}', 12),
    ('(f32[4]{0}, (s32[], u8[7]))', 16 + 4 + 7),
    ('token[]', 0),
  ],
)
def test_sizes(shape, size):
  assert size_of(shape) == size


def test_a_program_of_this_version_is_read():
  """A compiled product reads its factors and writes its result, at least."""
  x = np.ones((16, 16), np.float32)
  compiled = jax.jit(lambda x: x @ x + 1).lower(x).compile()
  assert 2 * x.nbytes <= ProgramText(compiled.as_text()).bytes_accessed()
