# SPDX-License-Identifier: Apache-2.0
"""The compiled harness itself: names, widths, timing of a cycle, streams, and that it is fast."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module, Mux, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tests.hw.compiled import Compiled

ITEM = data.StructLayout({"tag": 5, "value": signed(12), "wide": 70, "lanes": data.ArrayLayout(8, 3)})


class Widths(wiring.Component):
    """Registers and gates of every storage class of Verilator; names that C++ reserves or Verilator mangles."""

    def __init__(self) -> None:
        super().__init__(
            {f"i{width}": In(width) for width in (1, 8, 9, 17, 33, 64, 65, 100)}
            | {f"o{width}": Out(width) for width in (1, 8, 9, 17, 33, 64, 65, 100)}
            | {"new": In(4), "register": Out(4), "minus": Out(signed(6)), "plus": In(signed(6))}
            | {"item": In(ITEM), "again": Out(ITEM)}
        )

    def elaborate(self, platform):
        m = Module()
        for width in (1, 8, 9, 17, 33, 64, 65, 100):
            m.d.sync += getattr(self, f"o{width}").eq(getattr(self, f"i{width}"))
        m.d.comb += [self.register.eq(self.new + 1), self.minus.eq(-self.plus), self.again.eq(self.item)]
        return m


class Doubler(wiring.Component):
    """A stream register that adds 1, with an error to order."""

    def __init__(self, fault: str = "") -> None:
        super().__init__({"i": In(stream.Signature(ITEM)), "o": Out(stream.Signature(ITEM))})
        self._fault = fault

    def elaborate(self, platform):
        m = Module()
        free = ~self.o.valid | self.o.ready
        m.d.comb += self.i.ready.eq(1 if self._fault == "lose" else free)
        with m.If(free):
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload)]
            m.d.sync += self.o.payload.value.eq(self.i.payload.value + 1)
        if self._fault == "change":
            with m.If(self.o.valid & ~self.o.ready):
                m.d.sync += self.o.payload.tag.eq(self.o.payload.tag + 1)
        if self._fault == "withdraw":
            with m.If(self.o.valid & ~self.o.ready):
                m.d.sync += self.o.valid.eq(0)
        if self._fault == "repeat":
            with m.If(self.o.ready):
                m.d.sync += self.o.valid.eq(Mux(self.i.valid, 1, self.o.valid))
        return m


@pytest.fixture(scope="module")
def widths() -> Compiled:
    return Compiled(Widths())


@pytest.fixture(scope="module")
def doubler() -> Compiled:
    return Compiled(Doubler())


@pytest.mark.parametrize("width", [1, 8, 9, 17, 33, 64, 65, 100])
def test_every_width_passes_a_register(widths: Compiled, width: int) -> None:
    random = np.random.default_rng(width)
    words = -(-width // 32)
    bits = random.integers(0, 2, (50, words * 32), dtype=np.uint8)
    bits[:, width:] = 0
    values = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
    if width <= 64:
        values = np.pad(values, ((0, 0), (0, 2 - words))).copy().view(np.uint64)[:, 0]
    out = widths.run({f"i{width}": values}, [f"o{width}"])[f"o{width}"]
    assert (out[1:] == values[:-1]).all()


def test_reserved_and_signed_names(widths: Compiled) -> None:
    widths.poke("new", 7)
    widths.poke("plus", -5)
    assert widths.peek("register") == 8
    assert widths.peek("minus") == 5
    widths.poke("plus", 5)
    assert widths.peek("minus") == -5
    assert (widths.run({"plus": np.arange(-3, 4)}, ["minus"])["minus"] == -np.arange(-3, 4)).all()


def test_fields_of_a_structure(widths: Compiled) -> None:
    widths.poke("item.tag", 21)
    widths.poke("item.value", 0xABC)
    widths.poke("item.wide", np.array([1, 2, 3], np.uint32))
    for lane in range(3):
        widths.poke(f"item.lanes.{lane}", 100 + lane)
    assert widths.peek("again.tag") == 21
    assert widths.peek("again.value") == 0xABC
    assert widths.peek("again.wide").tolist() == [1, 2, 3]
    assert [widths.peek(f"again.lanes.{lane}") for lane in range(3)] == [100, 101, 102]


def test_step_and_reset(widths: Compiled) -> None:
    widths.poke("i8", 99)
    widths.step()
    assert widths.peek("o8") == 99
    widths.reset()
    assert widths.peek("o8") == 0


@pytest.mark.parametrize("pace", [1.0, 0.5, 0.05])
@pytest.mark.parametrize("seed", [0, 1])
def test_streams(doubler: Compiled, pace: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    tag, value = random.integers(0, 32, 200), random.integers(0, 4096, 200)
    doubler.reset()
    got = doubler.transfer({"i": {"tag": tag, "value": value}}, {"o": 200}, seed=seed, pace=pace)
    assert (got["o.tag"] == tag).all()
    assert (got["o.value"] == (value + 1) % 4096).all()


@pytest.mark.parametrize(
    "fault, message",
    [
        ("change", "changed"),
        pytest.param("withdraw", "changed", marks=pytest.mark.slow),
        pytest.param("lose", "delivered", marks=pytest.mark.slow),
        pytest.param("repeat", "more than was expected", marks=pytest.mark.slow),
    ],
)
def test_broken_streams_are_found(fault: str, message: str) -> None:
    broken = Compiled(Doubler(fault))
    with pytest.raises(AssertionError, match=message):
        broken.transfer({"i": {"tag": np.arange(32)}}, {"o": 32}, seed=3, pace=0.5)


def test_no_items(doubler: Compiled) -> None:
    doubler.reset()
    assert len(doubler.transfer({"i": {"tag": np.zeros(0, int)}}, {"o": 0}, seed=1)["o.tag"]) == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda unit: unit.poke("nothing", 1), "must be one of"),
        (lambda unit: unit.poke("o8", 1), "must be an input"),
        (lambda unit: unit.run({"i8": [1], "i9": [1, 2]}, []), "one length"),
        (lambda unit: unit.run({"i100": [1]}, []), "shape"),
        (lambda unit: unit.run({"i8": [1.5]}, []), "integers"),
    ],
)
def test_misuse_is_named(widths: Compiled, call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(widths)
