# SPDX-License-Identifier: Apache-2.0
"""The device ``rtl``: the Amaranth design, compiled by Verilator, with memories and host in C++ around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from catenary.isa.assembler import format_instruction
from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import decode
from catenary.isa.errors import DeviceError, EncodingError
from catenary.isa.opcodes import WORD_BYTES
from catenary.isa.program import Program
from catenary.runtime.core_driver import CoreDriver
from catenary.runtime.device import MemoryDevice, RunStatus
from catenary.runtime.devices import DeviceInfo, OpenOptions
from catenary.runtime.engine import Counters
from catenary.runtime.host import ProgramEngine
from catenary.sim.rtl.cache import Progress, quiet
from catenary.sim.rtl.core import core_design
from catenary.sim.rtl.memory_model import MemoryModel
from catenary.sim.rtl.simulator import Simulator, trace_kind
from catenary.sim.rtl.timeline import write_timeline
from catenary.sim.rtl.toolchain import missing_tools
from catenary.sim.rtl.verilog import Design

TRAINING_TOKENS = (1, 8, 1)
"""A training runs a decode step, a short prompt and another decode step."""
TRAINING_CYCLES = 200_000
"""A training's step ends after so many cycles, in the middle where the model is large."""


@dataclass(frozen=True)
class RtlOptions:
    """How to simulate.

    Attributes:
        model: timing of the memories.
        trace: waveform to write, ``.vcd`` or ``.fst``; simulation is several times slower then.
        timeline: JSON to write of what each unit executed when.
        progress: told of the build, which takes a minute the first time.
        training: tune the build by running this on a device that is not open yet, if there is no tuned one of this
            core so far; :func:`training_with` makes one of a program. Any later device, with this or without, uses the
            tuned build.
        design: makes the core.
    """

    model: MemoryModel = field(default_factory=MemoryModel)
    trace: Path | None = None
    timeline: Path | None = None
    progress: Progress = quiet
    training: Callable[[RtlDevice], None] | None = None
    design: Callable[[AcceleratorConfig, Progress], Design] = core_design


class RtlDevice(MemoryDevice):
    """A simulated core.

    Illegal instructions are found by the core when it meets them, so :meth:`load_code` looks at the length alone.

    Args:
        config: the accelerator.
        options: how to simulate.
        library: a build of this very core that is there already.
    """

    def __init__(
        self, config: AcceleratorConfig, options: RtlOptions | None = None, library: Path | None = None
    ) -> None:
        self._config = config
        self._options = options or RtlOptions()
        self._library = library
        self._simulator: Simulator | None = None
        self._driver: CoreDriver | None = None
        self._allocated = 0
        self._code = 0, 0

    @property
    def simulator(self) -> Simulator:
        """The open simulation.

        Raises:
            DeviceError: the device is not open.
        """
        if self._simulator is None:
            raise DeviceError("Device rtl must be open before it is used")
        return self._simulator

    @property
    def driver(self) -> CoreDriver:
        """The host's side of the core's registers; errors as :attr:`simulator`."""
        if self._driver is None:
            raise DeviceError("Device rtl must be open before it is used")
        return self._driver

    def open(self) -> None:
        """Build the core, or take it from the cache, and reset it.

        Raises:
            DeviceError: a tool is missing, the build failed, or the core is not the one expected.
        """
        options, lines = self._options, self._config.memory_lines
        trace_kind(options.trace)
        design = options.design(self._config, options.progress)
        sizes = [lines * width for width in self._config.port_bytes]
        train = None if options.training is None else partial(_train, self._config, options, options.training)
        traced = options.trace, options.progress
        self._simulator = Simulator(design, sizes, options.model, *traced, train, self._library)
        self._driver = CoreDriver(self._simulator, self._config, "rtl")
        self._allocated = 0
        try:
            if self._simulator.interface.bytes != self._config.port_bytes:
                widths = self._simulator.interface.bytes
                raise DeviceError(f"Ports of rtl must have {self._config.port_bytes} bytes, not {widths}")
            self._driver.check_identity()
        except DeviceError:
            self.close()
            raise
        self._simulator.record(options.timeline is not None)

    def close(self) -> None:
        """Write the timeline, complete the trace and drop the core."""
        simulator, self._simulator, self._driver = self._simulator, None, None
        if simulator is None:
            return
        try:
            if self._options.timeline is not None:
                line, count = self._code
                code = self._gather(simulator, line, count * WORD_BYTES)
                words = {pc: _disassemble(code[pc * WORD_BYTES : (pc + 1) * WORD_BYTES]) for pc in range(count)}
                names = simulator.interface.unit_names
                write_timeline(self._options.timeline, simulator.slices(), names, words, self._config.name)
        finally:
            simulator.close()

    def allocate(self, nbytes: int) -> int:
        """See :meth:`MemoryDevice.allocate`."""
        lines = self._config.lines(nbytes)
        left = sum(memory.size for memory in self.simulator.memory) - self._allocated * self._config.line_bytes
        if lines * self._config.line_bytes > left:
            raise DeviceError(f"Memory of rtl must have {nbytes} bytes left, not {left}")
        self._allocated += lines
        return self._allocated - lines

    def write(self, line: int, data: bytes | bytearray | memoryview) -> None:
        """See :meth:`MemoryDevice.write`."""
        self._inside(line, len(data))
        raw, width, at = np.frombuffer(data, np.uint8), self._config.line_bytes, 0
        whole = raw.size // width
        lines, rest = raw[: whole * width].reshape(whole, width), raw[whole * width :]
        for memory, port in zip(self.simulator.memory, self._config.port_bytes, strict=True):
            memory[line * port : (line + whole) * port].reshape(whole, port)[:] = lines[:, at : at + port]
            tail = rest[at : at + port]
            memory[(line + whole) * port :][: tail.size] = tail
            at += port

    def read(self, line: int, nbytes: int) -> bytes:
        """See :meth:`MemoryDevice.read`."""
        self._inside(line, nbytes)
        return self._gather(self.simulator, line, nbytes)

    def _gather(self, simulator: Simulator, line: int, nbytes: int) -> bytes:
        count = self._config.lines(nbytes)
        parts = [
            memory[line * port : (line + count) * port].reshape(count, port)
            for memory, port in zip(simulator.memory, self._config.port_bytes, strict=True)
        ]
        return np.concatenate(parts, axis=1).reshape(-1)[:nbytes].tobytes()

    def _inside(self, line: int, nbytes: int) -> None:
        end, lines = line + self._config.lines(nbytes), self._config.memory_lines
        if line < 0 or end > lines:
            raise DeviceError(f"Memory access must end at line {lines} at most, not {end}")

    def load_code(self, line: int, count: int) -> None:
        """See :meth:`MemoryDevice.load_code`."""
        self.driver.load_code(line, count)
        self._code = line, count

    def run(self, entry_pc: int, arguments: Sequence[int], timeout_s: float) -> RunStatus:
        """See :meth:`MemoryDevice.run`."""
        return self.driver.run(entry_pc, arguments, timeout_s)

    def counters(self) -> Counters:
        """The core's own counters."""
        return self.driver.counters()


def training_with(program: Program, cycles: int = TRAINING_CYCLES) -> Callable[[RtlDevice], None]:
    """A training that runs steps of ``program``, for at most ``cycles`` cycles each."""

    def train(device: RtlDevice) -> None:
        with ProgramEngine("rtl", "rtl", program, device) as engine:
            simulator, position = device.simulator, 0
            for count in TRAINING_TOKENS:
                ids = [index % engine.vocab for index in range(min(count, engine.max_context - position))]
                simulator.last_cycle = simulator.cycles + cycles
                try:
                    if ids:
                        engine.run(ids, position)
                        position += len(ids)
                except DeviceError:
                    if simulator.cycles < simulator.last_cycle:
                        raise

    return train


def _train(
    config: AcceleratorConfig, options: RtlOptions, training: Callable[[RtlDevice], None], library: Path
) -> None:
    training(RtlDevice(config, replace(options, training=None, timeline=None), library))


def _disassemble(word: bytes) -> str:
    try:
        return format_instruction(decode(word))
    except EncodingError:
        return "illegal"


def _available() -> tuple[bool, str]:
    missing = missing_tools()
    if missing:
        return False, f"needs {', '.join(missing)}"
    return True, "the hardware design, simulated cycle by cycle (Verilator)"


def _open(program: Program, options: OpenOptions) -> ProgramEngine:
    training = training_with(program) if options.tune else None
    progress = options.progress or quiet
    chosen = RtlOptions(trace=options.trace, timeline=options.timeline, progress=progress, training=training)
    return ProgramEngine("rtl", "rtl", program, RtlDevice(program.config, chosen))


DEVICE = DeviceInfo(
    name="rtl",
    source="rtl",
    available=_available,
    open=lambda program: _open(program, OpenOptions()),
    open_with=_open,
)
