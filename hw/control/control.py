# SPDX-License-Identifier: Apache-2.0
"""Everything that is not a unit's core, a buffer or a bus master: :class:`Control`."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from catenary.hw.axi import AXI4LiteSignature
from catenary.hw.buffers.signatures import DRead, IWrite
from catenary.hw.control.counters import Counters
from catenary.hw.control.dispatch import QUEUED_UNITS, Dispatch
from catenary.hw.control.faults import Fault, FaultLayout, first_fault, watchdog_faults
from catenary.hw.control.instructions import InstructionMemory
from catenary.hw.control.registers import Registers
from catenary.hw.control.runs import FetchLayout, RunControl
from catenary.hw.control.shell import Shell
from catenary.hw.control.tokens import Tokens
from catenary.hw.control.watchdog import Watchdog
from catenary.hw.unit import ResultLayout, UnitSignature
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import Unit
from catenary.isa.registers import ARGUMENT_REGISTERS, PC_BITS, ErrorCause, Stall, register_map

STATUS_REGISTERS = ("STATUS", "ERROR", "RESULT")
ARGUMENT_NAMES = tuple(f"ARGUMENT{number}" for number in range(len(ARGUMENT_REGISTERS)))

TraceSignature = wiring.Signature(
    {unit.name.lower(): Out(data.StructLayout({"active": 1, "pc": PC_BITS})) for unit in Unit}
)
"""By unit: whether it executes an instruction, and which (if not active, the latest or the next)."""


def counter_limits(config: AcceleratorConfig) -> dict[str, int]:
    """Every counter of the host interface, and by how much it goes up in a cycle at most."""
    ports = {str(index): width for index, width in enumerate(config.port_bytes)}
    return {
        "CYCLES": 1,
        **{f"BUSY_{unit.name}": 1 for unit in Unit},
        **{f"STALL_{stall.name}_{unit.name}": 1 for stall in Stall for unit in Unit},
        "ARRAY": 1,
        **{f"PORT_READ{suffix}": width for suffix, width in ports.items()},
        **{f"PORT_WRITTEN{suffix}": width for suffix, width in ports.items()},
    }


class Control(wiring.Component):
    """Host interface, dispatch, and a shell around the core of each unit.

    Parameters:
        config: the accelerator.

    Members:
        bus: the host.
        load, store, matrix, vector: the cores of the units.
        result: a scalar register that the vector unit writes.
        numeric: a NaN was quantised to 0; pulses.
        descriptors: reader of D.
        fetch: to the load unit: fetch ``count`` instructions from memory line ``line`` on into the instruction buffer.
        fetch_done: it has; pulses.
        i_write: writer of the instruction buffer, for the load unit.
        stream_empty: nothing but padding is left of the weight stream.
        abort: to the bus masters: finish open bus transfers, begin nothing.
        axi_idle: they have nothing open; looked at from the second cycle of ``abort`` on.
        core_reset: reset all but settings and bus masters; for one cycle.
        moved: a line has moved between memory and the core.
        multiplies: the multipliers take on a token, or two.
        port_read: by port, a beat has been read.
        port_written: by port, so many bytes have been written.
        trace: what the units do, for waveforms and timelines.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        ports = len(config.port_bytes)
        super().__init__(
            {
                "bus": In(AXI4LiteSignature(register_map(config).address_bits)),
                **{unit.name.lower(): In(UnitSignature(unit)) for unit in QUEUED_UNITS},
                "result": In(ResultLayout),
                "numeric": In(1),
                "descriptors": Out(DRead(config)),
                "fetch": Out(stream.Signature(FetchLayout)),
                "fetch_done": In(1),
                "i_write": In(IWrite(config)),
                "stream_empty": In(1),
                "abort": Out(1),
                "axi_idle": In(1),
                "core_reset": Out(1),
                "moved": In(1),
                "multiplies": In(1),
                "port_read": In(data.ArrayLayout(1, ports)),
                "port_written": In(data.ArrayLayout(range(max(config.port_bytes) + 1), ports)),
                "trace": Out(TraceSignature),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, limits = self._config, counter_limits(self._config)
        reset = ResetInserter(self.core_reset)
        registers = Registers(config, STATUS_REGISTERS, tuple(limits), ARGUMENT_NAMES)
        runs, instructions = RunControl(config), InstructionMemory(config)
        dispatch, tokens, watchdog, counters = Dispatch(config), Tokens(), Watchdog(), Counters(limits)
        shells: dict[Unit, Shell] = {unit: Shell(unit, config) for unit in QUEUED_UNITS}
        m.submodules.registers = registers
        m.submodules.runs = runs
        m.submodules.instructions = instructions
        m.submodules.counters = counters
        m.submodules.watchdog = reset(watchdog)
        m.submodules.dispatch = reset(dispatch)
        m.submodules.tokens = reset(tokens)
        for unit, shell in shells.items():
            m.submodules[f"{unit.name.lower()}_shell"] = reset(shell)

        connect(m, flipped(self.bus), registers.bus)
        connect(m, flipped(self.i_write), instructions.write)
        connect(m, flipped(self.fetch), runs.fetch)
        connect(m, flipped(self.descriptors), dispatch.descriptors)
        for unit, shell in shells.items():
            name = unit.name.lower()
            connect(m, flipped(getattr(self, name)), shell.core)
            connect(m, getattr(dispatch, name), shell.queue)
            m.d.comb += shell.enable.eq(runs.executing)
        m.d.comb += [
            instructions.address.eq(dispatch.address),
            instructions.enable.eq(dispatch.fetch),
            dispatch.word.eq(instructions.data),
            dispatch.start.eq(runs.begin),
            dispatch.entry.eq(registers.entry.pc),
            dispatch.length.eq(runs.code_length),
            registers.stored.eq(dispatch.argument),
            registers.stored_read.eq(dispatch.reading),
            dispatch.argument_value.eq(registers.stored_value),
            dispatch.enable.eq(runs.executing),
            dispatch.code_ready.eq(~runs.fetching),
            dispatch.result.eq(self.result),
            dispatch.quiet.eq(Cat(shell.quiet for shell in shells.values()).all()),
            dispatch.tokens_empty.eq(tokens.empty),
            dispatch.stream_empty.eq(self.stream_empty),
        ]
        clients: dict[Unit, Shell | Dispatch] = {**shells, Unit.CONTROL: dispatch}
        for unit, client in clients.items():
            m.d.comb += [
                tokens.wanted[unit].eq(client.wanted),
                client.granted.eq(tokens.granted[unit]),
                tokens.taken[unit].eq(client.taken),
                tokens.given[unit].eq(client.given),
            ]
        m.d.comb += [
            runs.start.eq(registers.control.start),
            runs.soft_reset.eq(registers.control.soft_reset),
            runs.code_written.eq(registers.written.code_line | registers.written.code_length),
            runs.line.eq(registers.code_line.line),
            runs.length.eq(registers.code_length.count),
            runs.fetch_done.eq(self.fetch_done),
            runs.finished.eq(dispatch.finished),
            runs.axi_idle.eq(self.axi_idle),
            self.abort.eq(runs.abort),
            self.core_reset.eq(runs.core_reset),
            watchdog.patience.eq(registers.watchdog.cycles),
            watchdog.running.eq(runs.executing),
        ]
        m.d.sync += watchdog.progress.eq(  # which is known late in a cycle
            Cat(self.moved, dispatch.progress, *(shell.progress for shell in shells.values())).any()
        )

        faults = [
            *(Fault(client.fault, client.cause, unit) for unit, client in clients.items()),
            *(Fault(tokens.overflow[unit], ErrorCause.TOKEN_LEAK, unit) for unit in Unit),
            Fault(runs.too_long, ErrorCause.CODE_RANGE, Unit.CONTROL),
            *watchdog_faults(watchdog.expired, runs.fetching, shells),
        ]
        fault = Signal(FaultLayout)
        first_fault(m, fault, faults, clients, runs.executing)
        m.d.comb += runs.failed.eq(fault.valid)
        self._report(m, registers, runs, dispatch, fault)
        self._count(m, counters, runs, shells, dispatch)
        m.d.comb += [
            counters.clear.eq(runs.soft_reset | runs.core_reset),
            counters.number.eq(registers.counter),
            registers.counter_valid.eq(counters.valid),
            registers.counter_value.eq(counters.value),
        ]
        for unit, shell in shells.items():
            trace = getattr(self.trace, unit.name.lower())
            m.d.comb += [trace.active.eq(shell.running), trace.pc.eq(shell.pc)]
        m.d.comb += [self.trace.control.active.eq(dispatch.busy), self.trace.control.pc.eq(dispatch.pc)]
        return m

    def _report(self, m: Module, registers: Registers, runs: RunControl, dispatch: Dispatch, fault: data.View) -> None:
        """STATUS, ERROR and RESULT."""
        status, error, result = (Signal.like(getattr(registers, name.lower())) for name in STATUS_REGISTERS)
        m.d.comb += [
            registers.status.eq(status),
            registers.status.running.eq(runs.running),
            registers.error.eq(error),
            registers.result.eq(result),
        ]
        with m.If(runs.executing):
            with m.If(self.numeric):
                m.d.sync += status.numeric.eq(1)
            with m.If(fault.valid):
                m.d.sync += [
                    status.error.eq(1),
                    error.cause.eq(fault.cause),
                    error.unit.eq(fault.unit),
                    error.pc.eq(fault.pc),
                ]
            with m.Elif(dispatch.finished):
                m.d.sync += [status.done.eq(1), result.value.eq(dispatch.value)]
        with m.If(runs.starting):
            m.d.sync += status.eq(0)
        with m.If(runs.soft_reset | runs.core_reset):
            m.d.sync += [status.eq(0), error.eq(0), result.eq(0)]

    def _count(
        self, m: Module, counters: Counters, runs: RunControl, shells: dict[Unit, Shell], dispatch: Dispatch
    ) -> None:
        """What the counters count."""
        steps = counters.steps
        with m.If(runs.executing):
            m.d.comb += [
                steps.CYCLES.eq(1),
                steps.ARRAY.eq(self.multiplies),
                steps.BUSY_CONTROL.eq(dispatch.busy),
                steps.STALL_TOKENS_CONTROL.eq(dispatch.stalled),
            ]
            for unit, shell in shells.items():
                m.d.comb += steps[f"BUSY_{unit.name}"].eq(shell.busy)
                for stall in Stall:
                    m.d.comb += steps[f"STALL_{stall.name}_{unit.name}"].eq(shell.stalls[stall.name.lower()])
        for port, width in enumerate(self._config.port_bytes):
            m.d.comb += [
                steps[f"PORT_READ{port}"].eq(Mux(self.port_read[port], width, 0)),
                steps[f"PORT_WRITTEN{port}"].eq(self.port_written[port]),
            ]
