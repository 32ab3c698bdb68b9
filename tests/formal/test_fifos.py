# SPDX-License-Identifier: Apache-2.0
"""The FIFOs that the hardware uses: what goes in comes out, in order and once, and no count leaves its range.

A FIFO does not look at what it holds, so elements of one bit stand for those of any width: one that the prover has
chosen to watch is told from all others.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType

import pytest
from amaranth.hdl import Mux, Signal
from amaranth.lib import fifo

from tests.formal.harness import Harness
from tests.formal.proofs import Record, mutant, prove


def harness(kind: str, depth: int, module: ModuleType = fifo, *, lemmas: bool = True) -> Harness:
    """Watch one element on its way."""
    h = Harness()
    m, dut = h.m, getattr(module, kind)(width=1, depth=depth)
    inside = h.add(dut, "dut")
    watch = h.free(1, "watch")
    put, got = Signal(), Signal()
    count = Signal(range(depth + 2))
    watching, done = Signal(), Signal()
    value, ahead = Signal(), Signal(range(depth + 2))
    m.d.comb += [put.eq(dut.w_en & dut.w_rdy), got.eq(dut.r_en & dut.r_rdy)]
    m.d.sync += count.eq(count + put - got)
    with m.If(put & watch & ~watching & ~done):
        m.d.sync += [watching.eq(1), value.eq(dut.w_data), ahead.eq(count - got)]
    with m.If(watching & got):
        m.d.sync += ahead.eq(ahead - 1)
        with m.If(ahead == 0):
            m.d.sync += [watching.eq(0), done.eq(1)]
    h.implies("the watched element comes out as it went in", watching & got & (ahead == 0), dut.r_data == value)
    h.claim("as many are inside as have gone in and not come out", dut.level == count)
    h.claim("never more than there is room for", count <= depth)
    h.claim("the watched element is inside", ~watching | (ahead < count))
    h.implies("nothing comes out of an empty one", count == 0, ~dut.r_rdy)
    h.implies("takes no more when it is full", count == depth, ~dut.w_rdy)
    h.implies("takes more until then", count < depth, dut.w_rdy)
    waits = h.past(dut.r_rdy & ~dut.r_en, "waits")
    h.implies("what is offered stays", waits, dut.r_rdy & (dut.r_data == h.past(dut.r_data, "data")))
    there = h.past(count != 0, "there") & ~h.past(got, "got")
    h.implies("what is inside is offered a cycle later at most", there, dut.r_rdy)
    if not lemmas:
        return h

    # Not seen from outside, and what makes the claims above inductive: where the watched element lies.
    buffered = kind == "SyncFIFOBuffered"
    places, shown = depth - buffered, dut.r_rdy if buffered else 0
    inner = inside["inner_level"] if buffered else dut.level
    produce, consume, slot = inside["produce"], inside["consume"], Signal(range(depth + 1))
    with m.If(put & watch & ~watching & ~done):
        m.d.sync += slot.eq(produce)
    after, at = consume + inner, consume + ahead - shown
    h.claim("pointers", (produce < places) & (produce == Mux(after >= places, after - places, after)))
    h.claim("places", (consume < places) & (inner <= places))
    h.claim("slot", ~watching | (ahead < shown) | (slot == Mux(at >= places, at - places, at)))
    stored = h.peek("dut.storage", slot)
    h.claim("stored", ~watching | (ahead < shown) | (stored == value))
    h.claim("register", ~watching | (ahead >= shown) | (dut.r_data == value))
    return h


_UNBUFFERED, _BUFFERED = "SyncFIFO", "SyncFIFOBuffered"
_QUICK = [(_UNBUFFERED, 7), (_BUFFERED, 8)]
_SLOW = [(_UNBUFFERED, depth) for depth in (1, 2, 4, 8, 16)]
_SLOW += [(_BUFFERED, depth) for depth in (3, 5, 16, 64, 178, 256)]
"""Those of the presets, but for W of ``hbm-slice``, and a few more."""

CONTROLS = {
    _UNBUFFERED: {
        "takes one too many": ("self.w_rdy.eq(self.level != self.depth)", "self.w_rdy.eq(1)"),
        "reads a place twice": ("consume.eq(_incr(consume, self.depth))", "consume.eq(consume)"),
    },
    _BUFFERED: {
        "takes one too many": ("self.w_rdy.eq(inner_level != inner_depth)", "self.w_rdy.eq(1)"),
        "reads a place twice": ("consume.eq(_incr(consume, inner_depth))", "consume.eq(consume)"),
    },
}
"""What is wrong with a FIFO, and the change that makes it so."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "depth"), [*_QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in _SLOW)])
def test_fifo(record: Record, kind: str, depth: int) -> None:
    prove(
        record,
        f"{kind}({depth})",
        "what is put in comes out in its order, as it was; count, room and offers are right",
        lambda: harness(kind, depth),
        steps=1,
        reached=partial(harness, kind, min(depth, 8)),
        controls={
            name: partial(harness, kind, 4, mutant(fifo, change), lemmas=False)
            for name, change in CONTROLS[kind].items()
        },
    )
