# SPDX-License-Identifier: Apache-2.0
"""A compiled vector unit with its buffers, and the instruction-set simulator beside it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from catenary.boards.loader import load_accelerator
from catenary.hw.buffers.codes import CodeBuffer
from catenary.hw.buffers.signatures import ARead, AWrite, VRead, VWrite
from catenary.hw.buffers.vector import VectorBuffer
from catenary.hw.unit import ResultLayout, UnitSignature
from catenary.hw.vector.unit import VectorUnit
from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import Operand
from catenary.isa.instructions import Instruction
from catenary.isa.opcodes import Unit
from catenary.sim.iss import vector
from catenary.sim.iss.memory import Memory
from catenary.sim.iss.units import Storage
from tests.hw.compiled import Compiled

V_WORDS, A_WORDS = 8192, 512
CHUNK = 256
"""Cycles of noise at a time."""


def configuration(lanes: int) -> AcceleratorConfig:
    return replace(load_accelerator("small"), vector_words=V_WORDS, act_bytes=16 * A_WORDS, vector_lanes=lanes)


class Bench(wiring.Component):
    """The unit, buffers, and one more client of each kind: to fill and look, and to be in the way."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                **UnitSignature(Unit.VECTOR).members,
                "result": Out(ResultLayout),
                "numeric": Out(1),
                "v_read": In(VRead(config)),
                "v_write": In(VWrite(config)),
                "a_read": In(ARead(config)),
                "a_write": In(AWrite(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = VectorUnit(self.config)
        m.submodules.v = v = VectorBuffer(self.config, readers=2, writers=2)
        m.submodules.a = a = CodeBuffer(self.config, readers=1, writers=2)
        connect(m, unit.v_read, v.reads[0])
        connect(m, unit.v_write, v.writes[0])
        connect(m, unit.a_write, a.writes[0])
        connect(m, flipped(self.v_read), v.reads[1])
        connect(m, flipped(self.v_write), v.writes[1])
        connect(m, flipped(self.a_read), a.reads[0])
        connect(m, flipped(self.a_write), a.writes[1])
        connect(m, flipped(self.insn), unit.insn)
        m.d.comb += [
            getattr(self, name).eq(getattr(unit, name))
            for name in ("done", "fault", "cause", "stall", "result", "numeric")
        ]
        return m


@dataclass
class Outcome:
    """What one instruction did."""

    cycles: int
    fault: bool
    cause: int
    numeric: bool
    result: int | None
    stalled: int


class Machine:
    """Runs instructions on hardware and on the simulator; :meth:`check` compares them."""

    def __init__(self, lanes: int, seed: object = 0, noise: float = 0.0) -> None:
        self.config = configuration(lanes)
        self.lanes, self.noise = lanes, noise
        self.model = compiled(lanes)
        for name in self.model.fields:
            if name.endswith("request.valid") or name == "insn.valid":
                self.model.poke(name, 0)
        self.model.reset()
        self.rng = np.random.default_rng(seed)
        self.storage = Storage.of(self.config, Memory(self.config, 1), check_hazards=False)
        self.storage.v._written[:] = self.storage.a._written[:] = True
        self.storage.scalars.reset([])
        self.argmax = vector.RunningArgmax()
        self.fill(np.zeros(V_WORDS, np.float32))

    def fill(self, v: np.ndarray, at: int = 0) -> None:
        """Write V from word ``at`` on, on both sides; and A with rubbish."""
        bits = np.ascontiguousarray(v, np.float32).view(np.uint32)
        self.storage.v.data[at : at + len(bits)] = v
        count = -(-len(bits) // self.lanes)
        rows = np.zeros(count * self.lanes, np.uint32)
        rows[: len(bits)] = bits
        rows = rows.reshape(count, self.lanes)
        sizes = np.minimum(len(bits) - self.lanes * np.arange(count), self.lanes)
        columns = {f"v_write.request.payload.data.{lane}": rows[:, lane] for lane in range(self.lanes)}
        columns["v_write.request.payload.address"] = at + self.lanes * np.arange(count)
        columns["v_write.request.payload.count"] = sizes
        columns["v_write.request.valid"] = np.ones(count, np.uint64)
        out = self.model.run(columns, ["v_write.request.ready"])
        assert out["v_write.request.ready"].all()
        self.model.poke("v_write.request.valid", 0)
        codes = self.rng.integers(0, 256, (A_WORDS, 16), np.uint8)
        self.storage.a.data[:] = codes.reshape(-1).view(np.int8)
        self.model.run(
            {
                "a_write.request.payload.address": np.arange(A_WORDS),
                "a_write.request.payload.data": codes.view(np.uint32),
                "a_write.request.payload.mask": np.full(A_WORDS, 0xFFFF),
                "a_write.request.valid": np.ones(A_WORDS, np.uint64),
            },
            [],
        )
        self.model.poke("a_write.request.payload.mask", 0)
        self.model.poke("a_write.request.valid", 0)

    def contents(self) -> tuple[np.ndarray, np.ndarray]:
        """V as words and A as bytes, as the hardware has them."""
        rows, tail = V_WORDS // self.lanes, np.zeros(8, np.int64)
        address = np.append(np.arange(rows) * self.lanes, tail)
        valid = np.append(np.ones(rows, np.int64), tail)
        names = [f"v_read.data.{lane}" for lane in range(self.lanes)]
        out = self.model.run(
            {
                "v_read.request.payload.address": address,
                "v_read.request.payload.count": np.full(len(address), self.lanes),
                "v_read.request.valid": valid,
            },
            [*names, "v_read.valid"],
        )
        there = out["v_read.valid"] != 0
        v = np.stack([out[name][there] for name in names], axis=1).astype(np.uint32).reshape(-1)
        address = np.append(np.arange(A_WORDS), tail)
        valid = np.append(np.ones(A_WORDS, np.int64), tail)
        out = self.model.run(
            {"a_read.request.payload": address, "a_read.request.valid": valid}, ["a_read.data", "a_read.valid"]
        )
        there = out["a_read.valid"] != 0
        return v, np.ascontiguousarray(out["a_read.data"][there]).view(np.uint8).reshape(-1)

    def run(self, insn: Instruction, limit: int = 60000) -> Outcome:
        """Run ``insn`` on the hardware alone."""
        model, rng, name = self.model, self.rng, insn.opcode.name.lower()
        model.poke("insn.payload.opcode", int(insn.opcode))
        for field in insn.body:
            model.poke(f"insn.payload.body.{name}.{field.name}", _bits(getattr(insn, field.name)))
        assert model.peek("insn.ready")
        watched = [
            "done",
            "fault",
            "cause",
            "numeric",
            "result.valid",
            "result.value",
            "result.register",
            "stall.buffer",
        ]
        cycles, numeric, stalled = 0, False, 0
        first = np.ones(1, np.uint64)
        while cycles < limit:
            size = CHUNK if cycles else 1
            noise = {
                f"{client}.request.valid": (rng.random(size) < self.noise).astype(np.uint64)
                for client in ("v_read", "v_write", "a_write")
            }
            # Words nobody looks at, behind everything.
            noise["v_write.request.payload.address"] = np.full(size, V_WORDS - self.lanes)
            noise["v_read.request.payload.address"] = rng.integers(0, V_WORDS - self.lanes, size)
            noise["v_read.request.payload.count"] = noise["v_write.request.payload.count"] = np.full(size, self.lanes)
            for client in ("v_read", "v_write", "a_write"):
                noise[f"{client}.request.valid"][-4:] = 0  # at the end nothing may be on its way
            noise["insn.valid"] = first if not cycles else np.zeros(size, np.uint64)
            out = model.run(noise, watched)
            ends = np.flatnonzero((out["done"] | out["fault"]) != 0)
            seen = slice(0, ends[0] + 1) if len(ends) else slice(None)
            numeric |= bool(out["numeric"][seen].any())
            stalled += int(out["stall.buffer"][seen].sum())
            if len(ends):
                end = ends[0]
                assert not out["done"][end + 1 :].any() or out["fault"][end], "done twice"
                result = int(out["result.value"][end]) if out["result.valid"][end] else None
                return Outcome(
                    cycles + int(end), bool(out["fault"][end]), int(out["cause"][end]), numeric, result, stalled
                )
            cycles += size
        raise AssertionError(f"{insn} did not finish in {limit} cycles")

    def check(self, insn: Instruction) -> Outcome:
        """Run ``insn`` on both and compare everything."""
        s = self.storage
        s.nan_seen = False
        if insn.opcode.name == "ARGMAX":
            self.argmax.prepare(s, insn)()
        else:
            getattr(vector, insn.opcode.name.lower())(s, insn)()
        outcome = self.run(insn)
        assert not outcome.fault, insn
        assert outcome.numeric == s.nan_seen, insn
        if insn.opcode.name == "ARGMAX":
            assert outcome.result == s.scalars.get(insn.rd), insn
        v, a = self.contents()
        expected = s.v.data.view(np.uint32)
        if insn.opcode.name == "SOFTMAX":  # scores are working storage
            rows, total, x = insn.rows.imm, insn.total.imm, insn.x.imm
            for row in range(rows):
                at = x + row * insn.x_stride
                s.v.data.view(np.uint32)[at : at + total] = v[at : at + total]
        used = slice(0, V_WORDS - self.lanes)
        wrong = np.flatnonzero(v[used] != expected[used])
        assert not len(wrong), f"{insn}: {_differences(wrong, v, expected)}"
        wrong = np.flatnonzero(a != s.a.data.view(np.uint8))
        assert not len(wrong), f"{insn}: A {_differences(wrong, a, s.a.data.view(np.uint8))}"
        return outcome


@cache
def compiled(lanes: int) -> Compiled:
    return Compiled(Bench(configuration(lanes)))


def _bits(value: object) -> int:
    if isinstance(value, Operand):
        return value.imm
    if isinstance(value, float):
        return int.from_bytes(struct.pack("<f", value), "little")
    return int(getattr(value, "value", value))


def _differences(wrong: np.ndarray, got: np.ndarray, expected: np.ndarray) -> str:
    first = ", ".join(f"[{at}] {int(got[at]):08x} not {int(expected[at]):08x}" for at in wrong[:6])
    return f"{len(wrong)} words differ: {first}"
