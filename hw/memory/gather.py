# SPDX-License-Identifier: Apache-2.0
"""The store unit's data path: from words of the buffers to lines."""

from __future__ import annotations

from enum import IntEnum

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.buffers.signatures import A_ADDRESS_BITS, A_LATENCY, V_ADDRESS_BITS, V_LATENCY, ARead, VRead
from catenary.hw.memory.rotate import rotated
from catenary.hw.memory.walk import Words, piece_bytes, step_layout
from catenary.hw.memory.write_master import SLACK, written_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.tensors import BLOCK


class Kind(IntEnum):
    """Where bytes come from."""

    F32 = 0
    CODES = 1


def store_words(config: AcceleratorConfig) -> list[Words]:
    """How each :class:`Kind` of words gives bytes to memory."""
    return [Words(4, 4 * config.vector_lanes), Words(BLOCK, None)]


class Gather(wiring.Component):
    """Reads the bytes of each step of a walk from a buffer, and puts them together into lines.

    A step is one read of a buffer. As its answer cannot be held up, a read is asked for only when there is room for the
    line in which it ends, and for those of the reads before it, which ``latency`` bounds.

    Parameters:
        config: the accelerator.

    Members:
        steps: the walk, its ``kind`` a :class:`Kind`.
        v_read, a_read: the buffers.
        lines: the lines, with a strobe for each byte that the walk was over. Always taken.
        room: at least ``write_master.SLACK`` more lines will be taken.
        fault: what a step takes lies behind the end of a buffer.
        blocked: a buffer does not answer.
        idle: every step so far has become part of a line.
    """

    latency = V_LATENCY + 2
    """Cycles from a step to the line that it ends."""

    def __init__(self, config: AcceleratorConfig):
        if V_LATENCY != A_LATENCY:
            raise ValueError(f"V_LATENCY and A_LATENCY must be equal, not {V_LATENCY} and {A_LATENCY}")
        if self.latency > SLACK:
            raise ValueError(f"SLACK must be at least {self.latency}, not {SLACK}")
        self._config = config
        self._piece = piece_bytes(config)
        super().__init__(
            {
                "steps": In(stream.Signature(step_layout(self._piece))),
                "v_read": Out(VRead(config)),
                "a_read": Out(ARead(config)),
                "lines": Out(stream.Signature(written_layout(config.line_bytes), always_ready=True)),
                "room": In(1),
                "fault": Out(1),
                "blocked": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        piece, step = self._piece, self.steps.payload
        v, a = self.v_read, self.a_read

        # Ask. A step over a gap needs no answer, but goes the same way, so that lines stay in order.
        go, ready, outside = Signal(), Signal(), Signal()
        codes = step.kind == Kind.CODES
        m.d.comb += [
            v.request.payload.address.eq(step.address),
            v.request.payload.count.eq(step.count >> 2),
            a.request.payload.eq(step.address),
            ready.eq(1),
        ]
        with m.If(step.count != 0):
            m.d.comb += outside.eq(Mux(codes, step.address >> A_ADDRESS_BITS, step.address >> V_ADDRESS_BITS) != 0)
            m.d.comb += [
                v.request.valid.eq(self.steps.valid & self.room & ~codes & ~outside),
                a.request.valid.eq(self.steps.valid & self.room & codes & ~outside),
                ready.eq(Mux(codes, a.request.ready, v.request.ready)),
                self.blocked.eq(self.steps.valid & self.room & ~ready),
            ]
        m.d.comb += [
            self.steps.ready.eq(self.room & ready & ~outside),
            go.eq(self.steps.valid & self.steps.ready),
            self.fault.eq((self.steps.valid & outside) | v.fault | a.fault),
        ]
        known = [(go, step)]
        for cycle in range(V_LATENCY):
            valid, late = Signal(name=f"asked_{cycle}"), Signal.like(step, name=f"step_{cycle}")
            m.d.sync += valid.eq(known[-1][0])
            with m.If(known[-1][0]):
                m.d.sync += late.eq(known[-1][1])
            known.append((valid, late))
        asked, late = known[-1]

        # The answer, turned so that its bytes are where the piece wants them.
        width = max(piece, BLOCK)
        source = Signal(8 * width)
        shift = Signal(range(2 * width))
        with m.If(late.kind == Kind.CODES):
            m.d.comb += [source.eq(a.data), shift.eq(late.offset + width - late.position)]
        with m.Else():
            m.d.comb += [source.eq(v.data), shift.eq(width - late.position)]
        turned = rotated(m, source, shift, "turned")
        bytes_valid, found, strobe, piece_end, line_end = (
            Signal(size, name=name)
            for name, size in (
                ("bytes_valid", 1),
                ("found", 8 * piece),
                ("strobe", piece),
                ("piece_end", 1),
                ("line_end", 1),
            )
        )
        end = Signal(range(piece + 1))
        m.d.comb += end.eq(late.position + late.count)
        m.d.sync += bytes_valid.eq(asked)
        with m.If(asked):
            m.d.sync += [
                found.eq(turned),
                strobe.eq(Cat((place >= late.position) & (place < end) for place in range(piece))),
                piece_end.eq(late.piece_end),
                line_end.eq(late.line_end),
            ]

        # The line: complete pieces, the last of them on top, and above them the one that is being filled.
        done_bits = self._config.line_bytes - piece
        held, held_strobe = Signal(8 * piece), Signal(piece)
        done, done_strobe = Signal(8 * done_bits), Signal(done_bits)
        bits, bits_strobe = Signal(8 * piece), Signal(piece)
        m.d.comb += [
            bits.eq(Cat(Mux(strobe[i], found[8 * i : 8 * i + 8], held[8 * i : 8 * i + 8]) for i in range(piece))),
            bits_strobe.eq(held_strobe | strobe),
            self.lines.payload.data.eq(Cat(done, bits)),
            self.lines.payload.strobe.eq(Cat(done_strobe, bits_strobe)),
            self.lines.valid.eq(bytes_valid & line_end),
            self.idle.eq(~bytes_valid & ~Cat(valid for valid, _ in known[1:]).any()),
        ]
        with m.If(bytes_valid):
            m.d.sync += [held.eq(bits), held_strobe.eq(Mux(piece_end, 0, bits_strobe))]
            with m.If(piece_end):
                m.d.sync += [
                    done.eq(Cat(done, bits)[8 * piece :]),
                    done_strobe.eq(Cat(done_strobe, bits_strobe)[piece:]),
                ]
        return m
