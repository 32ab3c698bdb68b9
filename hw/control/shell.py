# SPDX-License-Identifier: Apache-2.0
"""What surrounds the core of every unit: its queue, its tokens, and what there is to say about it."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from catenary.hw.control.tokens import UNITS
from catenary.hw.unit import CAUSE_BITS, UnitSignature, started_limit
from catenary.hw.words import command_layout, pc_width
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import Unit
from catenary.isa.registers import Stall

StallsLayout = data.StructLayout({stall.name.lower(): 1 for stall in Stall})
"""What a unit waits for in this cycle; at most one of them is set."""


def entry_layout(unit: Unit, config: AcceleratorConfig) -> data.StructLayout:
    """What dispatch puts into the queue of ``unit``: the command, or ``nop``, with what the shell needs around it."""
    members = {"wait": UNITS, "release": UNITS, "nop": 1, "pc": pc_width(config.instruction_words)}
    return data.StructLayout({**members, "command": command_layout(unit)})


class Shell(wiring.Component):
    """The queue of a unit, and the way of its instructions from there through the core.

    An instruction leaves the queue when it starts, so ``queue_depth`` more fit behind those that run. It starts when
    its tokens are there; a core that runs several at a time finishes them in order. NOP takes and gives its tokens at
    the head of the queue, when nothing runs.

    Parameters:
        unit: the unit.
        config: the accelerator.

    Members:
        queue: from dispatch.
        core: the core of the unit.
        enable: may start instructions.
        wanted, granted, taken, given: to the token counters.
        busy: holds an instruction.
        running: the core executes one.
        quiet: holds none, not even in the queue.
        stalls: what the instruction that it holds waits for.
        pc: the first instruction that runs, or what ran last; of one that waits for tokens, that one.
        fault, cause: of the core; a fetch of code can fail while no instruction runs.
        progress: an instruction has finished.
    """

    def __init__(self, unit: Unit, config: AcceleratorConfig):
        self._layout = entry_layout(unit, config)
        self._depth = config.queue_depth
        self._most = started_limit(unit)
        super().__init__(
            {
                "queue": In(stream.Signature(self._layout)),
                "core": In(UnitSignature(unit)),
                "enable": In(1),
                "wanted": Out(UNITS),
                "granted": In(1),
                "taken": Out(1),
                "given": Out(UNITS),
                "busy": Out(1),
                "running": Out(1),
                "quiet": Out(1),
                "stalls": Out(StallsLayout),
                "pc": Out(pc_width(config.instruction_words)),
                "fault": Out(1),
                "cause": Out(CAUSE_BITS),
                "progress": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=self._layout.size, depth=self._depth)
        head = data.View(self._layout, fifo.r_data)
        around = data.StructLayout({"release": UNITS, "pc": len(self.pc)})
        first, latest = Signal(around), Signal(around)  # of the instructions that run
        started = self.core.insn.valid & self.core.insn.ready
        finished = self.running & self.core.done
        alone, room = Signal(), Signal()  # not more than one runs; one more may start
        granted = fifo.r_rdy & self.granted & self.enable
        nop = granted & head.nop & ~self.running
        m.d.comb += [
            fifo.w_data.eq(self.queue.payload),
            fifo.w_en.eq(self.queue.valid),
            self.queue.ready.eq(fifo.w_rdy),
            self.wanted.eq(head.wait),
            self.core.insn.payload.eq(head.command),
            self.core.insn.valid.eq(granted & ~head.nop & room),
            self.taken.eq(started | nop),
            fifo.r_en.eq(self.taken),
            self.busy.eq(fifo.r_rdy | self.running),
            self.quiet.eq((fifo.level == 0) & ~self.running),
            self.stalls.tokens.eq(fifo.r_rdy & ~self.running & ~self.granted),
            self.pc.eq(first.pc),
            latest.release.eq(head.release),
            latest.pc.eq(head.pc),
            self.fault.eq(self.core.fault),
            self.cause.eq(self.core.cause),
            self.progress.eq(finished | nop),
        ]
        with m.If(self.running):
            m.d.comb += [self.stalls[name].eq(self.core.stall[name]) for name in self.core.stall.shape().members]
        with m.Elif(fifo.r_rdy):
            m.d.comb += self.pc.eq(head.pc)
        with m.If(finished):
            m.d.comb += self.given.eq(first.release)
        with m.Elif(nop):
            m.d.comb += self.given.eq(head.release)

        if self._most == 1:
            m.d.comb += [alone.eq(1), room.eq(~self.running)]
        else:
            m.submodules.others = others = SyncFIFO(width=around.size, depth=self._most - 1)
            m.d.comb += [
                alone.eq(~others.r_rdy),
                room.eq(others.w_rdy),
                others.w_data.eq(latest),
                others.w_en.eq(started & self.running & ~(finished & alone)),
                others.r_en.eq(finished),
            ]
            with m.If(finished):
                m.d.sync += first.eq(others.r_data)
        with m.If(finished & alone):
            m.d.sync += self.running.eq(0)
        with m.If(started):
            m.d.sync += self.running.eq(1)
            with m.If(~self.running | (finished & alone)):
                m.d.sync += first.eq(latest)
        return m
