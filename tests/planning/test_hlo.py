"""Counting the work of a compiled program from its text."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rljax.planning.hlo import axes_of, count_work, replica_groups
from tests.conftest import quick_jit

MESH = {"data": 2, "fsdp": 4, "tensor": 1}


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, dimensions={0}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,4]<=[8], dimensions={0}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dim", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, d", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, d", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups={}, to_apply=%add", [list(range(8))]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
    ],
)
def test_groups_are_read_in_every_notation(text, groups):
    assert replica_groups(text, 8) == groups


def test_unknown_groups_are_an_error():
    with pytest.raises(ValueError, match="unknown form"):
        replica_groups("replica_groups=something", 8)


def test_groups_are_named_by_the_axes_they_lie_along():
    assert axes_of([[0, 1, 2, 3], [4, 5, 6, 7]], MESH) == "fsdp"
    assert axes_of([[0, 4], [1, 5]], MESH) == "data"
    assert axes_of([list(range(8))], MESH) == "data+fsdp"
    assert axes_of([[0, 0], [1, 2], [2, 1]], MESH) == "fsdp"
    assert axes_of([[0], [1]], MESH) == ""


PROGRAM = """
HloModule tiny

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[], f32[4,8]{1,0}) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%p), index=1
  %w = f32[8,8]{1,0} constant({...})
  %y = f32[4,8]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %g = f32[16,8]{1,0} all-gather(%y), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%i, %y)
}

%condition (p: (s32[], f32[4,8])) -> pred[] {
  ROOT %c = pred[] constant(true)
}

ENTRY %main (a: f32[4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %l = (s32[], f32[4,8]{1,0}) while(%t), condition=%condition, body=%body, KNOWN
  %s = f32[2,8]{1,0} reduce-scatter(%a), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}
  ROOT %r = f32[4,8]{1,0} all-reduce(%a), replica_groups=[1,8]<=[8], to_apply=%add
}
"""


@pytest.mark.parametrize(("known", "trips"), [(True, 5), (False, 3)])
def test_loops_count_as_often_as_they_run(known, trips):
    text = 'backend_config={"known_trip_count":{"n":"5"}}' if known else "metadata={}"
    work = count_work(PROGRAM.replace("KNOWN", text), MESH, open_trips=3)
    assert work.flops == trips * 2 * 4 * 8 * 8
    assert work.traffic == {
        "fsdp": trips * 16 * 8 * 4 * 3 / 4,  # an all-gather sends all but its own part
        "data": 2 * 8 * 4 * 1,
        "data+fsdp": 2 * 4 * 8 * 4 * 7 / 8,
    }


def test_a_compiled_loop_has_the_operations_of_its_products():
    def many(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, length=7)[0]

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 16), (16, 16))]
    program = quick_jit(many).lower(*shapes).compile()
    work = count_work(program.as_text(), {"data": 1})
    assert work == (7 * 2 * 3 * 16 * 16, {})
