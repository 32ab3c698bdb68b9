# SPDX-License-Identifier: Apache-2.0
"""Dispatch: fetch, loops, legality, operands, and the instructions of the control unit.

Dispatch handles one instruction at a time, in program order. One for another unit goes into that unit's queue. One of
the control unit is executed right here: it waits for its tokens, acts, and releases, before the next is fetched.

**Why that keeps programs free of deadlock.** The proof in :mod:`catenary.isa.code_check` takes the first unfinished
instruction in program order and shows that it can go on. If it is one of the control unit, everything before it has
finished, so its tokens have been given and no register that it names is busy; END, which waits for all units, has
nothing to wait for. That it holds up dispatch delays later instructions only, none of which the first unfinished one
needs. The exception is a load into W, which needs later matrix instructions to drain it: up to the last of those,
nothing takes a token that this load gives (rule 3), so what a control instruction in between waits for comes from
instructions before it that do not depend on this load, and the argument holds for the first unfinished one of the rest.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.buffers.signatures import DRead
from catenary.hw.control.alu import Alu
from catenary.hw.control.decoder import Decoder
from catenary.hw.control.loops import LoopStack
from catenary.hw.control.operands import Resolver, assemble, slot
from catenary.hw.control.scalars import Scalars
from catenary.hw.control.shell import entry_layout
from catenary.hw.control.tokens import UNITS
from catenary.hw.unit import CAUSE_BITS, ResultLayout
from catenary.hw.words import OPCODE_BITS, pc_width, word_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import SCALAR_BITS
from catenary.isa.instructions import INSTRUCTIONS
from catenary.isa.opcodes import WORD_BITS, Opcode, Unit
from catenary.isa.registers import ARGUMENT_REGISTERS, PC_BITS, ErrorCause

QUEUED_UNITS: tuple[Unit, ...] = tuple(unit for unit in Unit if unit is not Unit.CONTROL)
"""Units that have a queue and a core."""


class Dispatch(wiring.Component):
    """Runs a program as far as dispatch is concerned.

    An instruction with n > 0 operands takes n + 7 cycles if nothing holds it up, some control instructions a few more.

    Parameters:
        config: the accelerator.

    Members:
        start: begin a run at ``entry`` of a program of ``length`` instructions, with arguments in registers.
        argument: number of the argument that is read while ``reading`` is high.
        argument_value: its value, in the same cycle.
        enable: may go on.
        code_ready: the code is in the instruction memory.
        address, fetch, word: read port of the instruction memory.
        load, store, matrix, vector: queues.
        wanted, granted, taken, given: of the control unit, to the token counters.
        result: a register that a unit writes.
        descriptors: reader of D.
        quiet: the queues are empty and the units idle.
        tokens_empty: there is no token.
        stream_empty: no line is left in the stream FIFO.
        finished: the run has reached END; ``value`` is its result.
        fault, cause: the run cannot go on; pulses.
        pc: instruction in hand.
        busy: that is one of the control unit.
        stalled: it waits for tokens.
        progress: an instruction has been dispatched or executed.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        queues = {unit.name.lower(): Out(stream.Signature(entry_layout(unit, config))) for unit in QUEUED_UNITS}
        super().__init__(
            {
                "start": In(1),
                "entry": In(PC_BITS),
                "length": In(PC_BITS),
                "argument": Out(range(len(ARGUMENT_REGISTERS))),
                "reading": Out(1),
                "argument_value": In(SCALAR_BITS),
                "enable": In(1),
                "code_ready": In(1),
                "address": Out(pc_width(config.instruction_words)),
                "fetch": Out(1),
                "word": In(WORD_BITS),
                **queues,
                "wanted": Out(UNITS),
                "granted": In(1),
                "taken": Out(1),
                "given": Out(UNITS),
                "result": In(ResultLayout),
                "descriptors": Out(DRead(config)),
                "quiet": In(1),
                "tokens_empty": In(1),
                "stream_empty": In(1),
                "finished": Out(1),
                "value": Out(SCALAR_BITS),
                "fault": Out(1),
                "cause": Out(CAUSE_BITS),
                "pc": Out(PC_BITS),
                "busy": Out(1),
                "stalled": Out(1),
                "progress": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.decoder = decoder = Decoder()
        m.submodules.scalars = scalars = Scalars()
        m.submodules.resolver = resolver = Resolver()
        m.submodules.alu = alu = Alu()
        m.submodules.loops = loops = LoopStack(self._config.instruction_words)

        # One bit more than a program counter has, so that neither a loop nor the last instruction wraps around.
        pc = Signal(PC_BITS + 1)
        word = Signal(WORD_BITS)
        retire = Signal()
        issue = Signal()
        views = {opcode: data.View(word_layout(cls), word) for opcode, cls in INSTRUCTIONS.items()}
        opcode, prefix = word[:OPCODE_BITS], views[Opcode.NOP]
        slots = {
            (opcode, name): slot(resolver.slots, INSTRUCTIONS[opcode], name)
            for opcode, name in [
                (Opcode.ALU, "ra"),
                (Opcode.ALU, "b"),
                (Opcode.LDS, "address"),
                (Opcode.LOOP, "count"),
                (Opcode.END, "result"),
            ]
        }

        m.d.comb += [
            self.pc.eq(pc),
            self.address.eq(pc),
            decoder.word.eq(word),
            resolver.word.eq(word),
            resolver.enable.eq(self.enable),
            scalars.register.eq(resolver.register),
            resolver.value.eq(scalars.value),
            resolver.pending.eq(scalars.pending),
            scalars.written.eq(decoder.writes),
            scalars.by_unit.eq(decoder.unit != Unit.CONTROL),
            scalars.result.eq(self.result),
            scalars.write.payload.register.eq(decoder.writes),
            alu.function.eq(views[Opcode.ALU].function),
            alu.a.eq(slots[Opcode.ALU, "ra"]),
            alu.b.eq(slots[Opcode.ALU, "b"]),
            self.descriptors.address.eq(slots[Opcode.LDS, "address"]),
            loops.pc.eq(pc),
            loops.clear.eq(self.start),
            loops.count.eq(slots[Opcode.LOOP, "count"]),
            loops.length.eq(views[Opcode.LOOP].length),
            self.wanted.eq(prefix.wait),
            self.value.eq(slots[Opcode.END, "result"]),
            self.progress.eq(retire | issue),
        ]
        with m.If(retire):
            m.d.comb += self.given.eq(prefix.release)

        ready = Signal(len(Unit))
        for unit in QUEUED_UNITS:
            queue = self._queue(unit)
            entry = queue.payload
            assemble(m, unit, entry.command, word, resolver.slots)
            m.d.comb += [
                entry.wait.eq(prefix.wait),
                entry.release.eq(prefix.release),
                entry.nop.eq(opcode == Opcode.NOP),
                entry.pc.eq(pc),
                ready[unit].eq(queue.ready),
            ]

        def fail(cause: ErrorCause) -> None:
            m.d.comb += [self.fault.eq(1), self.cause.eq(cause)]
            m.next = "IDLE"

        def write(value) -> None:
            """Write the instruction's register and be done with it."""
            m.d.comb += [scalars.write.valid.eq(1), scalars.write.payload.value.eq(value)]
            with m.If(scalars.write.ready):
                m.d.comb += retire.eq(1)
                m.next = "ADVANCE"

        with m.If(self.enable), m.FSM(name="dispatch"):
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [pc.eq(self.entry), self.argument.eq(0)]
                m.next = "ARGUMENTS"
            with m.State("ARGUMENTS"):
                m.d.comb += [
                    self.reading.eq(1),
                    scalars.write.valid.eq(1),
                    scalars.write.payload.register.eq(ARGUMENT_REGISTERS.start + self.argument),
                    scalars.write.payload.value.eq(self.argument_value),
                ]
                m.d.sync += self.argument.eq(self.argument + 1)
                with m.If(self.argument == len(ARGUMENT_REGISTERS) - 1):
                    m.next = "FETCH"
            with m.State("FETCH"), m.If(self.code_ready):
                m.d.comb += self.fetch.eq(1)
                m.next = "READ"
                with m.If(pc >= self.length):
                    fail(ErrorCause.CODE_RANGE)
            with m.State("READ"):
                m.d.sync += word.eq(self.word)
                m.next = "DECODE"
            with m.State("DECODE"):
                m.d.comb += self.busy.eq(decoder.legal & (decoder.unit == Unit.CONTROL))
                with m.If(~decoder.legal):
                    fail(ErrorCause.ILLEGAL_INSTRUCTION)
                with m.Elif(~scalars.blocked):
                    m.d.comb += resolver.start.eq(1)
                    m.next = "RESOLVE"
            with m.State("RESOLVE"):
                m.d.comb += self.busy.eq(decoder.unit == Unit.CONTROL)
                with m.If(resolver.fault):
                    fail(ErrorCause.ADDRESS_RANGE)
                with m.Elif(resolver.done & (decoder.unit == Unit.CONTROL)):
                    m.next = "TOKENS"
                with m.Elif(resolver.done):
                    m.next = "ISSUE"
            with m.State("ISSUE"):
                for unit in QUEUED_UNITS:
                    m.d.comb += self._queue(unit).valid.eq(decoder.unit == unit)
                with m.If(ready.bit_select(decoder.unit, 1)):
                    m.d.comb += [issue.eq(1), scalars.reserve.eq(decoder.writes != 0)]
                    m.next = "ADVANCE"
            with m.State("TOKENS"):
                m.d.comb += [self.busy.eq(1), self.stalled.eq(~self.granted), alu.start.eq(1)]
                with m.If(self.granted):
                    m.d.comb += self.taken.eq(1)
                    m.next = "EXECUTE"
            with m.State("EXECUTE"):
                m.d.comb += self.busy.eq(1)
                with m.Switch(opcode):
                    with m.Case(Opcode.LI):
                        write(views[Opcode.LI].imm)
                    with m.Case(Opcode.ALU), m.If(alu.done):
                        write(alu.result)
                    with m.Case(Opcode.LDS):
                        m.d.comb += self.descriptors.enable.eq(1)
                        m.next = "LOAD"
                    with m.Case(Opcode.LOOP):
                        with m.If(loops.refused):
                            fail(ErrorCause.ILLEGAL_INSTRUCTION)
                        with m.Else():
                            m.d.comb += [retire.eq(1), loops.enter.eq(loops.count != 0)]
                            m.next = "ADVANCE"
                            with m.If(loops.count == 0):  # as after its last turn: a loop around it may end there too
                                m.d.sync += pc.eq(pc + loops.length)
                    with m.Case(Opcode.NOP):
                        m.d.comb += retire.eq(1)
                        m.next = "ADVANCE"
                    with m.Case(Opcode.END), m.If(self.quiet):
                        m.d.comb += retire.eq(1)
                        m.next = "FINISH"
            with m.State("LOAD"):
                m.d.comb += self.busy.eq(1)
                with m.If(self.descriptors.fault):
                    fail(ErrorCause.ADDRESS_RANGE)
                with m.Else():
                    write(self.descriptors.data)
            with m.State("ADVANCE"):
                m.d.comb += loops.turn.eq(loops.at_end)
                with m.If(loops.at_end & loops.again):
                    m.d.sync += pc.eq(loops.first)
                    m.next = "FETCH"
                with m.Elif(~loops.at_end):  # else the loop around it may end here too
                    m.d.sync += pc.eq(pc + 1)
                    m.next = "FETCH"
            with m.State("FINISH"):
                m.d.comb += self.busy.eq(1)
                with m.If(~self.stream_empty):
                    fail(ErrorCause.STREAM_LEAK)
                with m.Elif(~self.tokens_empty):
                    fail(ErrorCause.TOKEN_LEAK)
                with m.Else():
                    m.d.comb += self.finished.eq(1)
                    m.next = "IDLE"
        return m

    def _queue(self, unit: Unit):
        return getattr(self, unit.name.lower())
