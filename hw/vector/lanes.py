# SPDX-License-Identifier: Apache-2.0
"""Vector registers and arithmetic lanes: ``p * q + c``."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.fp.add import FpAdd
from catenary.hw.fp.format import MINUS_ZERO
from catenary.hw.fp.function import Function
from catenary.hw.fp.multiply import FpMul
from catenary.hw.vector.layouts import REGISTERS, C, Geometry, P, Q, beat_layout
from catenary.isa.config import AcceleratorConfig


class Lanes(wiring.Component):
    """One beat a cycle, ``latency`` enabled cycles long: read registers, choose operands, multiply, add.

    Parameters:
        config: the accelerator.

    Members:
        enable: while 0, everything holds.
        start: a beat starts; only while enabled and ``offered``.
        offered: a beat waits to start. Known earlier in a cycle than whether it does.
        beat: which one.
        words: what V has answered.
        scalar_q, scalar_c: the scalars that it names.
        write: a vector register is written: ``register``, ``beat`` and ``data``.
        valid: a result is there: ``result``, of ``count`` elements, for the function unit if ``apply``.
        busy: there is something in the pipeline.
    """

    latency = 2 + FpMul.latency + FpAdd.latency

    def __init__(self, config: AcceleratorConfig) -> None:
        g = self._geometry = Geometry(config)
        words = data.ArrayLayout(32, g.lanes)
        write = {"valid": 1, "register": range(REGISTERS), "beat": range(g.beats), "data": words}
        super().__init__(
            {
                "enable": In(1),
                "start": In(1),
                "offered": In(1),
                "beat": In(beat_layout(config)),
                "words": In(words),
                "scalar_q": In(32),
                "scalar_c": In(32),
                "write": In(data.StructLayout(write)),
                "valid": Out(1),
                "result": Out(words),
                "count": Out(range(g.lanes + 1)),
                "apply": Out(1),
                "function": Out(Function),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, beats = self._geometry.lanes, self._geometry.beats
        index_bits = exact_log2(beats)

        m.submodules.registers = registers = Memory(shape=32 * lanes, depth=REGISTERS * beats, init=[])
        port_a, port_b, writer = registers.read_port(), registers.read_port(), registers.write_port()
        compute = self.beat.compute

        def place(number, beat):
            return Cat(beat[:index_bits], number)

        m.d.comb += [
            port_a.addr.eq(place(compute.a, self.beat.a_beat)),
            port_b.addr.eq(place(compute.b, self.beat.b_beat)),
            port_a.en.eq(self.start),
            port_b.en.eq(self.start),
            writer.addr.eq(place(self.write.register, self.write.beat)),
            writer.data.eq(self.write.data),
            writer.en.eq(self.write.valid),
        ]

        # What goes with the beat: (valid, count, apply, function) to the end, masked lanes to the multiplier.
        passing = data.StructLayout(
            {"count": self.beat.ticket.count.shape(), "masked": 1, "apply": 1, "function": Function}
        )
        valid = Signal(self.latency)
        stages = [Signal(passing, name=f"stage_{at}", reset_less=True) for at in range(self.latency)]
        entering = Signal(passing)
        m.d.comb += [
            entering.count.eq(self.beat.ticket.count),
            entering.masked.eq(self.beat.masked),
            entering.apply.eq(compute.apply),
            entering.function.eq(compute.function),
            self.busy.eq(valid.any()),
            self.valid.eq(valid[-1]),
            self.count.eq(stages[-1].count),
            self.apply.eq(stages[-1].apply),
            self.function.eq(stages[-1].function),
        ]
        moves = self.enable & (self.offered | self.busy)
        with m.If(moves):
            m.d.sync += valid.eq(Cat(self.start, valid))
            m.d.sync += [after.eq(before) for after, before in zip(stages, [entering, *stages[:-1]], strict=True)]

        # 1: read registers; 2: choose operands.
        chosen = Signal(self.beat.shape(), reset_less=True)
        words = Signal(self.words.shape(), reset_less=True)
        scalar_q, scalar_c = Signal(32, reset_less=True), Signal(32, reset_less=True)
        with m.If(self.start):
            m.d.sync += [
                chosen.eq(self.beat),
                words.eq(self.words),
                scalar_q.eq(self.scalar_q),
                scalar_c.eq(self.scalar_c),
            ]
        a = data.View(self.words.shape(), port_a.data)
        b = data.View(self.words.shape(), port_b.data)
        for lane in range(lanes):
            p, q, c = (Signal(32, name=f"{name}_{lane}", reset_less=True) for name in "pqc")
            self._operands(m, chosen, a, b, words, scalar_q, scalar_c, lane, moves, p, q, c)
            m.submodules[f"multiply_{lane}"] = multiply = FpMul()
            m.submodules[f"add_{lane}"] = add = FpAdd()
            summands = [c, *(Signal(32, name=f"c_{lane}_{at}", reset_less=True) for at in range(FpMul.latency))]
            with m.If(moves):
                m.d.sync += [after.eq(before) for after, before in zip(summands[1:], summands, strict=False)]
            operands = stages[1]
            m.d.comb += [
                multiply.enable.eq(moves),
                multiply.a.eq(p),
                multiply.b.eq(q),
                multiply.missing.eq(operands.masked & (lane >= operands.count)),
                add.enable.eq(moves),
                add.a.eq(multiply.o),
                add.b.eq(summands[-1]),
                self.result[lane].eq(add.o),
            ]
        return m

    def _operands(self, m, beat, a, b, words, scalar_q, scalar_c, lane, moves, p, q, c) -> None:
        compute = beat.compute
        first, second, summand = Signal(32), Signal(32), Signal(32)
        m.d.comb += first.eq(Mux(compute.p == P.V, words[lane], a[lane]))
        if not lane:
            with m.If(compute.p == P.SCALAR):
                m.d.comb += first.eq(scalar_c)
        with m.Switch(compute.q):
            with m.Case(Q.SCALAR):
                m.d.comb += second.eq(scalar_q)
            with m.Case(Q.V):
                m.d.comb += second.eq(words[lane])
            with m.Default():
                m.d.comb += second.eq(a[lane])
        partial = Signal(32)
        m.d.comb += partial.eq(b[lane])
        for power in range(exact_log2(self._geometry.lanes)):
            if lane < 1 << power:
                with m.If(beat.fold[power]):
                    m.d.comb += partial.eq(b[lane + (1 << power)])
        m.d.comb += summand.eq(Mux(compute.c == C.SCALAR, scalar_c, partial))
        nothing = (compute.c == C.MINUS_ZERO) | ((compute.c == C.PARTIAL) & beat.fresh)
        with m.If(moves):
            m.d.sync += [p.eq(first), q.eq(second), c.eq(summand ^ (compute.subtract << 31))]
            with m.If(nothing):
                m.d.sync += c.eq(MINUS_ZERO)
