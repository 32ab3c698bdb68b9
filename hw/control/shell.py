# SPDX-License-Identifier: Apache-2.0
"""What surrounds the core of every unit: its queue, its tokens, and what there is to say about it."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from catenary.hw.control.tokens import UNITS
from catenary.hw.unit import CAUSE_BITS, UnitSignature
from catenary.hw.words import command_layout, pc_width
from catenary.isa.config import AcceleratorConfig
from catenary.isa.instructions import Unit
from catenary.isa.registers import Stall

StallsLayout = data.StructLayout({stall.name.lower(): 1 for stall in Stall})
"""What a unit waits for in this cycle; at most one of them is set."""


def entry_layout(unit: Unit, config: AcceleratorConfig) -> data.StructLayout:
    """What dispatch puts into the queue of ``unit``: the command, or ``nop``, with what the shell needs around it."""
    members = {"wait": UNITS, "release": UNITS, "nop": 1, "pc": pc_width(config.instruction_words)}
    return data.StructLayout({**members, "command": command_layout(unit)})


class Shell(wiring.Component):
    """The queue of a unit, and one instruction at a time from there through the core.

    An instruction leaves the queue when it starts, so ``queue_depth`` more fit behind the one that runs. NOP takes and
    gives its tokens at the head of the queue.

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
        pc: the instruction that runs or ran last; of one that waits for tokens, that one.
        fault, cause: of the core; a fetch of code can fail while no instruction runs.
        progress: an instruction has finished.
    """

    def __init__(self, unit: Unit, config: AcceleratorConfig):
        self._layout = entry_layout(unit, config)
        self._depth = config.queue_depth
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
        release, pc = Signal(UNITS), Signal.like(self.pc)
        waiting = fifo.r_rdy & ~self.running
        ready = waiting & self.granted & self.enable
        started = self.core.insn.valid & self.core.insn.ready
        finished = self.running & self.core.done
        m.d.comb += [
            fifo.w_data.eq(self.queue.payload),
            fifo.w_en.eq(self.queue.valid),
            self.queue.ready.eq(fifo.w_rdy),
            self.wanted.eq(head.wait),
            self.core.insn.payload.eq(head.command),
            self.core.insn.valid.eq(ready & ~head.nop),
            self.taken.eq(started | (ready & head.nop)),
            fifo.r_en.eq(self.taken),
            self.busy.eq(fifo.r_rdy | self.running),
            self.quiet.eq((fifo.level == 0) & ~self.running),
            self.stalls.tokens.eq(waiting & ~self.granted),
            self.pc.eq(pc),
            self.fault.eq(self.core.fault),
            self.cause.eq(self.core.cause),
            self.progress.eq(finished | (ready & head.nop)),
        ]
        with m.If(self.running):
            m.d.comb += [self.stalls[name].eq(self.core.stall[name]) for name in self.core.stall.shape().members]
        with m.Elif(fifo.r_rdy):
            m.d.comb += self.pc.eq(head.pc)
        with m.If(finished):
            m.d.comb += self.given.eq(release)
            m.d.sync += self.running.eq(0)
        with m.Elif(ready & head.nop):
            m.d.comb += self.given.eq(head.release)
        with m.If(started):
            m.d.sync += [self.running.eq(1), release.eq(head.release), pc.eq(head.pc)]
        return m
