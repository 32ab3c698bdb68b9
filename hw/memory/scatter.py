# SPDX-License-Identifier: Apache-2.0
"""The load unit's data path: from lines to words of the buffers."""

from __future__ import annotations

from enum import IntEnum

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.buffers.signatures import (
    A_ADDRESS_BITS,
    D_ADDRESS_BITS,
    V_ADDRESS_BITS,
    AWrite,
    DWrite,
    IWrite,
    VWrite,
)
from catenary.hw.memory.line_reader import read_layout
from catenary.hw.memory.rotate import rotated
from catenary.hw.memory.walk import Words, grain_bytes, piece_bytes, step_layout
from catenary.hw.memory.widen import WidenHalf
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import WORD_BYTES
from catenary.isa.tensors import BLOCK


class Kind(IntEnum):
    """Where bytes go, and as what."""

    F32 = 0
    F16 = 1
    BF16 = 2
    CODES = 3
    DESCRIPTORS = 4
    INSTRUCTIONS = 5


def load_words(config: AcceleratorConfig) -> list[Words]:
    """How each :class:`Kind` of words takes bytes from memory."""
    lanes, grain = config.vector_lanes, grain_bytes(config)
    return [
        Words(4, 4 * lanes),
        Words(2, 2 * lanes),
        Words(2, 2 * lanes),
        Words(BLOCK, None),
        Words(8, min(8, grain)),
        Words(WORD_BYTES, grain),
    ]


class Scatter(wiring.Component):
    """Writes the bytes that each step of a walk takes from lines into the buffer that they are for.

    Three registers in a row: the line; its bytes, rotated so that the first one is where its word wants it; the words.
    Words of D and of instructions are put together from their parts.

    Parameters:
        config: the accelerator.

    Members:
        lines: the lines that the walk is about.
        steps: the walk, its ``kind`` a :class:`Kind`.
        final: the step is the last one of its walk, so no line of the next one is taken for it.
        v_write, a_write, d_write, i_write: the buffers.
        fault: what a step takes lies behind the end of a buffer. It is not written, and nothing after it.
        blocked: a buffer does not take what is there for it.
        starved: a step waits for its line.
        idle: every step so far has been written.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        self._piece = piece_bytes(config)
        super().__init__(
            {
                "lines": In(stream.Signature(read_layout(config))),
                "steps": In(stream.Signature(step_layout(self._piece))),
                "final": In(1),
                "v_write": Out(VWrite(config)),
                "a_write": Out(AWrite(config)),
                "d_write": Out(DWrite(config)),
                "i_write": Out(IWrite(config)),
                "fault": Out(1),
                "blocked": Out(1),
                "starved": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        piece, step = self._piece, self.steps.payload

        # The line, which moves down by a piece when that has been used.
        line, have = Signal(8 * self._config.line_bytes), Signal()
        bytes_valid, bytes_next = Signal(), Signal()
        take, used = Signal(), Signal()
        m.d.comb += [
            take.eq(self.steps.valid & have & bytes_next),
            self.starved.eq(self.steps.valid & ~have),
            self.steps.ready.eq(have & bytes_next),
            used.eq(take & step.line_end),
            self.lines.ready.eq(~have | (used & ~self.final)),
        ]
        if len(line) > 8 * piece:
            with m.If(take & step.piece_end):
                m.d.sync += line.eq(line[8 * piece :])
        with m.If(used):
            m.d.sync += have.eq(0)
        with m.If(self.lines.ready & self.lines.valid):
            m.d.sync += [have.eq(1), line.eq(self.lines.payload.data)]

        # The bytes. Those of a word of A go to their place in the word, all others begin at 0.
        shift = Signal(range(2 * piece + BLOCK))
        rounds = -(-(BLOCK - 1) // piece) * piece
        m.d.comb += shift.eq(step.position)
        with m.If(step.kind == Kind.CODES):
            m.d.comb += shift.eq(step.position + rounds - step.offset[: exact_log2(BLOCK)])
        turned = rotated(m, line[: 8 * piece], shift, "turned")
        found, taken = Signal(8 * piece), Signal.like(step)
        with m.If(bytes_next):
            m.d.sync += bytes_valid.eq(take & (step.count != 0))
        with m.If(take & (step.count != 0)):
            m.d.sync += [found.eq(turned), taken.eq(step)]
        return self._write(m, found, taken, bytes_valid, bytes_next)

    def _write(self, m, found, taken, bytes_valid, bytes_next):
        """From ``found`` bytes to words, and to the buffers."""
        piece, lanes, grain = self._piece, self._config.vector_lanes, grain_bytes(self._config)
        words = Signal(max(32 * lanes, 8 * BLOCK))
        parts = Signal(8 * WORD_BYTES)
        address, count, mask = Signal(V_ADDRESS_BITS), Signal(range(lanes + 1)), Signal(BLOCK)
        clients = (self.v_write, self.a_write, self.d_write, self.i_write)
        valid = Cat(client.request.valid for client in clients)
        accepted = Cat(client.request.ready for client in clients)

        free, outside, move = Signal(), Signal(), Signal()
        m.d.comb += [
            self.blocked.eq((valid & ~accepted).any()),
            free.eq(~self.blocked),
            bytes_next.eq(~bytes_valid | (free & ~outside)),
            move.eq(bytes_valid & free & ~outside),
            self.idle.eq(~bytes_valid & (valid == 0)),
            self.fault.eq((bytes_valid & outside) | self.v_write.fault | self.a_write.fault | self.d_write.fault),
        ]
        with m.If(free):
            m.d.sync += valid.eq(0)
        with m.If(move):
            m.d.sync += address.eq(taken.address)

        with m.Switch(taken.kind):
            with m.Case(Kind.F32, Kind.F16, Kind.BF16):
                m.d.comb += outside.eq(taken.address >> V_ADDRESS_BITS != 0)
                with m.If(move):
                    m.d.sync += [
                        self.v_write.request.valid.eq(1),
                        count.eq(Mux(taken.kind == Kind.F32, taken.count >> 2, taken.count >> 1)),
                    ]
            with m.Case(Kind.CODES):
                m.d.comb += outside.eq(taken.address >> A_ADDRESS_BITS != 0)
                with m.If(move):
                    m.d.sync += self.a_write.request.valid.eq(1)
            with m.Case(Kind.DESCRIPTORS):
                m.d.comb += outside.eq(taken.address >> D_ADDRESS_BITS != 0)
                with m.If(move):
                    m.d.sync += self.d_write.request.valid.eq(taken.word_end)
            with m.Case(Kind.INSTRUCTIONS), m.If(move):
                m.d.sync += self.i_write.request.valid.eq(taken.word_end)

        # Plain bytes, for FP32 and codes. Codes behind the end of the row are zeros, those before the first byte are
        # masked. A word that is wider than a piece has it twice or more often: a code's place is modulo the piece.
        is_codes, is_f32, is_f16 = (Signal(name=f"is_{kind}") for kind in ("codes", "f32", "f16"))
        first, end = taken.offset[: exact_log2(BLOCK)], Signal(range(2 * BLOCK))
        m.d.comb += [
            is_codes.eq(taken.kind == Kind.CODES),
            is_f32.eq(taken.kind == Kind.F32),
            is_f16.eq(taken.kind == Kind.F16),
            end.eq(first + taken.count),
        ]
        inside = [Signal(name=f"inside_{place}") for place in range(BLOCK)]
        plain = []
        for place in range(len(words) // 8):
            keep = is_f32
            if place < BLOCK:
                m.d.comb += inside[place].eq(place < end)
                keep = is_f32 | (is_codes & inside[place])
            byte = 8 * (place % piece)
            plain.append(Mux(keep, found[byte : byte + 8], 0))
        # Short floats, widened
        wide = Signal(len(words))
        for lane in range(min(lanes, piece // 2)):
            half = found[16 * lane : 16 * lane + 16]
            m.submodules[f"widen_{lane}"] = widen = WidenHalf()
            m.d.comb += widen.half.eq(half)
            m.d.comb += wide[32 * lane : 32 * lane + 32].eq(Mux(is_f16, widen.single, half << 16))
        short = Signal()
        m.d.comb += short.eq(is_f16 | (taken.kind == Kind.BF16))
        with m.If(move):
            m.d.sync += [
                words.eq(Mux(short, wide, Cat(plain))),
                mask.eq(Cat((place >= first) & (inside[place] | taken.row_end) for place in range(BLOCK))),
            ]
            with m.If((taken.kind == Kind.DESCRIPTORS) | (taken.kind == Kind.INSTRUCTIONS)):
                m.d.sync += parts.eq(Cat(parts[8 * grain :], found[: 8 * grain]))

        newest = parts[-8 * max(grain, 8) :][:64]
        v, a, d, i = (client.request.payload for client in clients)
        m.d.comb += [v.address.eq(address), v.count.eq(count), v.data.eq(words)]
        m.d.comb += [a.address.eq(address), a.mask.eq(mask), a.data.eq(words)]
        m.d.comb += [d.address.eq(address), d.data.eq(newest), i.address.eq(address), i.data.eq(parts)]
        return m
