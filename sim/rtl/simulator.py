# SPDX-License-Identifier: Apache-2.0
"""A compiled core with its memories and a host at its registers, driven from Python.

Python makes one call per register access or run; everything that happens every cycle is C++ (``host.cpp``).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import DeviceError
from catenary.sim.rtl.build import Trace, Training, build
from catenary.sim.rtl.cache import Progress, quiet
from catenary.sim.rtl.memory_model import MemoryModel
from catenary.sim.rtl.ports import Field, Port
from catenary.sim.rtl.verilog import Design

SOURCES = ("host.cpp", "axi_lite.h", "axi_memory.h", "random.h", "timeline.h")
CALL_SECONDS = 0.5
"""Longest stay in compiled code, so that an interruption from the keyboard is noticed."""
POLL_CYCLES = 256
"""Cycles between two looks of the host at a register that it waits for."""
RESET_CYCLES = 4

_FOREVER = 1 << 62
_WRAPPER = "simulation"


class Outcome(IntEnum):
    """How a call into compiled code ended; ``host.cpp`` has the same numbers."""

    DONE = 0
    CYCLES_UP = 1
    TIME_UP = 2
    BROKEN_RULE = 3
    NO_ANSWER = 4
    REFUSED = 5


class _Timing(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("blocked", "period", "latency", "outstanding")),
        ("share", ctypes.c_double),
        ("stall", ctypes.c_double),
    )


class _Statistics(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("read_bytes", "written_bytes", "offered_cycles"))


SLICE = np.dtype([("begin", "<u8"), ("end", "<u8"), ("unit", "<u4"), ("pc", "<u4")])
"""One instruction on a timeline: cycles ``begin .. end - 1``, index into the interface's units, program counter."""


@dataclass(frozen=True)
class Interface:
    """Where a core's interfaces are among its ports, found by the signals that they have.

    Attributes:
        control: path of the AXI4-Lite port.
        memories: paths of the AXI4 ports, in order.
        bytes: data width of each of them.
        units: paths of the trace outputs, ``active`` and ``pc`` each.
    """

    control: str
    memories: tuple[str, ...]
    bytes: tuple[int, ...]
    units: tuple[str, ...]

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Last part of each unit's path."""
        return tuple(path.rpartition(".")[2] for path in self.units)


@dataclass(frozen=True)
class PortStatistics:
    """What the memory behind one port saw since it was made.

    Attributes:
        read_bytes: taken by the core.
        written_bytes: sent by the core, without regard to strobes.
        offered_cycles: cycles in which a beat could have moved.
    """

    read_bytes: int
    written_bytes: int
    offered_cycles: int


def find_interface(ports: Sequence[Port]) -> Interface:
    """The interfaces of a core with one AXI4-Lite port and at least one AXI4 port.

    Raises:
        DeviceError: there is no such port, or more than one AXI4-Lite port.
    """
    fields: dict[str, Field] = {field.path: field for port in ports for field in port.fields}
    prefixes = [path.rpartition(".")[0] for path in fields if path.endswith(".awvalid")]
    memories = tuple(prefix for prefix in prefixes if f"{prefix}.awlen" in fields)
    controls = [prefix for prefix in prefixes if prefix not in memories]
    if len(controls) != 1 or not memories:
        raise DeviceError(f"Core must have one AXI4-Lite port and AXI4 ports, not {controls} and {list(memories)}")
    traced = [path.rpartition(".")[0] for path in fields if path.endswith(".active")]
    units = tuple(prefix for prefix in traced if f"{prefix}.pc" in fields)
    return Interface(controls[0], memories, tuple(fields[f"{path}.rdata"].width // 8 for path in memories), units)


class Simulator:
    """A design with one AXI4-Lite port, AXI4 memory ports and, if it has them, trace outputs.

    Args:
        design: the core.
        memory_bytes: size of the memory behind each port.
        model: timing of the memories.
        trace: file for the waveform of everything that follows, ``.vcd`` or ``.fst``; simulation is slower then.
        progress: told of the build.
        training: tune the build with this, if there is no tuned one yet; not with a trace.
        library: a build of this very design that is there already.

    Attributes:
        interface: the core's interfaces.
        memory: uint8 [bytes] per port, shared with the simulation: what the host writes there the core reads.
        last_cycle: :meth:`wait` ends there at the latest.

    Raises:
        DeviceError: a tool is missing, the build failed, the trace cannot be written, or memory is short.
    """

    def __init__(
        self,
        design: Design,
        memory_bytes: Sequence[int],
        model: MemoryModel | None = None,
        trace: Path | None = None,
        progress: Progress = quiet,
        training: Training | None = None,
        library: Path | None = None,
    ) -> None:
        model = model or MemoryModel()
        self.interface = find_interface(design.ports)
        if len(memory_bytes) != len(self.interface.memories):
            raise DeviceError(f"Memory must have {len(self.interface.memories)} ports, not {len(memory_bytes)}")
        if library is None:
            folder, kind = Path(__file__).parent, trace_kind(trace)
            sources = {name: (folder / name).read_text(encoding="utf-8") for name in SOURCES}
            top = with_input_registers(design)
            library = build(top, sources, kind, progress, fast=trace is None, training=training)
        try:
            self.memory: tuple[NDArray[np.uint8], ...] = tuple(np.zeros(size, np.uint8) for size in memory_bytes)
        except MemoryError:
            raise DeviceError(f"Memory of rtl must fit into this computer, not be {sum(memory_bytes)} bytes") from None
        self.last_cycle = _FOREVER
        self._library = _load(library)
        self._host: ctypes.c_void_p | None = self._make(model)
        for index, data in enumerate(self.memory):
            self._library.host_attach(self._host, index, data.ctypes.data, data.size)
        if trace is not None and not self._library.host_trace(self._host, str(trace).encode()):
            self.close()
            raise DeviceError(f"Trace must be a file that can be written, not {str(trace)!r}")
        self.reset()

    def _make(self, model: MemoryModel) -> ctypes.c_void_p:
        timing = _Timing(model.blocked, model.period, model.latency, model.outstanding, model.share, model.stall)
        names = self.interface
        message = ctypes.create_string_buffer(200)
        host = self._library.host_new(
            _strings(names.memories),
            len(names.memories),
            names.control.encode(),
            _strings(names.units),
            len(names.units),
            ctypes.byref(timing),
            model.seed,
            message,
            len(message),
        )
        if not host:
            raise DeviceError(f"Core must have all signals of its interfaces, not {message.value.decode()}")
        return ctypes.c_void_p(host)

    def close(self) -> None:
        """Free the model and complete the trace. Closing twice is harmless."""
        if self._host is not None:
            self._library.host_delete(self._host)
            self._host = None

    def __del__(self) -> None:
        """Free the model."""
        if getattr(self, "_host", None) is not None:
            self.close()

    @property
    def cycles(self) -> int:
        """Cycles simulated so far, in resets and between runs too."""
        return int(self._library.host_cycles(self._host))

    def reset(self) -> None:
        """Reset the core through its reset input; memory keeps its contents."""
        self._library.host_reset(self._host, RESET_CYCLES)

    def run(self, cycles: int) -> None:
        """Let ``cycles`` cycles pass.

        Raises:
            DeviceError: the core broke a rule of AXI4.
        """
        self._library.host_run(self._host, cycles)
        self._check(Outcome.BROKEN_RULE if self.violation else Outcome.DONE, "Core")

    def write_register(self, address: int, value: int) -> None:
        """Write a 32-bit register through AXI4-Lite.

        Raises:
            DeviceError: the core does not answer, refuses, or broke a rule of AXI4.
        """
        self._check(Outcome(self._library.host_write(self._host, address, value)), f"Register at {address:#x}")

    def read_register(self, address: int) -> int:
        """Read a 32-bit register through AXI4-Lite; errors as :meth:`write_register`."""
        value = ctypes.c_uint32()
        outcome = self._library.host_read(self._host, address, ctypes.byref(value))
        self._check(Outcome(outcome), f"Register at {address:#x}")
        return value.value

    def wait(self, address: int, mask: int, seconds: float, cycles: int = _FOREVER) -> bool:
        """Read a register every :data:`POLL_CYCLES` until one of the bits in ``mask`` is set.

        Args:
            address: of the register.
            mask: bits to wait for.
            seconds: of host time at most.
            cycles: at most.

        Returns:
            Whether that happened, within both limits.

        Raises:
            DeviceError: the core does not answer, or broke a rule of AXI4.
        """
        deadline, last = time.monotonic() + seconds, min(self.cycles + cycles, self.last_cycle)
        while True:
            left = min(CALL_SECONDS, deadline - time.monotonic())
            outcome = Outcome(
                self._library.host_wait(
                    self._host, address, mask, POLL_CYCLES, max(last - self.cycles, 0), max(left, 0.0)
                )
            )
            if outcome is not Outcome.TIME_UP:
                break
            if time.monotonic() >= deadline:
                return False
        self._check(outcome if outcome is not Outcome.CYCLES_UP else Outcome.DONE, f"Register at {address:#x}")
        return outcome is Outcome.DONE

    def fail_accesses(self, port: int, first: int, end: int, kind: Literal["reads", "writes", "both"] = "both") -> None:
        """Answer accesses to the bytes ``first .. end - 1`` behind ``port`` with SLVERR from now on.

        What is behind the memory's end is answered with DECERR in any case.
        """
        self._library.host_error(self._host, port, first, end, kind != "writes", kind != "reads")

    def clear_failures(self) -> None:
        """Undo :meth:`fail_accesses`."""
        self._library.host_clear_errors(self._host)

    def statistics(self) -> tuple[PortStatistics, ...]:
        """What each memory saw since it was made."""
        found = []
        for index in range(len(self.memory)):
            raw = _Statistics()
            self._library.host_statistics(self._host, index, ctypes.byref(raw))
            found.append(PortStatistics(raw.read_bytes, raw.written_bytes, raw.offered_cycles))
        return tuple(found)

    @property
    def violation(self) -> str:
        """The first rule of AXI4 that the core broke, empty if none."""
        return cast(bytes, self._library.host_violation(self._host)).decode()

    def record(self, on: bool) -> None:
        """Begin or end recording what the units execute."""
        self._library.host_record(self._host, on)

    def slices(self) -> NDArray[Any]:
        """What was recorded so far: structured array of :data:`SLICE`, in the order in which they ended."""
        first = ctypes.c_void_p()
        count = self._library.host_slices(self._host, ctypes.byref(first))
        if not count:
            return np.zeros(0, SLICE)
        raw = (ctypes.c_uint8 * (count * SLICE.itemsize)).from_address(cast(int, first.value))
        return np.frombuffer(raw, SLICE).copy()

    def flush(self) -> None:
        """Write what is buffered of the trace."""
        self._library.host_flush(self._host)

    def _check(self, outcome: Outcome, what: str) -> None:
        if outcome is Outcome.BROKEN_RULE:
            raise DeviceError(f"Core must keep the rules of AXI4, not break this one: {self.violation}")
        if outcome is Outcome.NO_ANSWER:
            raise DeviceError(f"{what} must answer, not stay silent for thousands of cycles")
        if outcome is Outcome.REFUSED:
            raise DeviceError(f"{what} must exist, not be refused by the core")


def with_input_registers(design: Design) -> Design:
    """``design`` inside a module that holds its inputs in registers.

    The host decides on the inputs of a cycle before the edge that begins it, so nothing is later than without. But
    Verilator evaluates what depends on an input of the top apart from the rest, twice a cycle, and on ``rst`` depends
    nearly everything. The inputs of an interface, those with a common start of their names, are clocked together when
    one of them changes, so that what depends on them rests while they do.
    """
    inputs = [("rst", 1), *((port.name, port.width) for port in design.ports if not port.output)]
    outputs = [(port.name, port.width) for port in design.ports if port.output]
    span = {name: f"[{width - 1}:0] " if width > 1 else "" for name, width in (*inputs, *outputs)}
    interfaces: dict[str, list[str]] = {}
    for name, _ in inputs:
        interfaces.setdefault(name.split("__")[0], []).append(name)
    lines = [
        f"module {_WRAPPER}(input clk",
        *(f"  , input {span[name]}{name}" for name, _ in inputs),
        *(f"  , output {span[name]}{name}" for name, _ in outputs),
        ");",
        *(f"  reg {span[name]}{name}_now = 0;" for name, _ in inputs),
    ]
    for names in interfaces.values():
        lines.append(f"  always @(posedge clk iff ({' | '.join(f'({name}_now != {name})' for name in names)})) begin")
        lines += [*(f"    {name}_now <= {name};" for name in names), "  end"]
    lines += [
        f"  {design.top} core(.clk(clk)",
        *(f"    , .{name}({name}_now)" for name, _ in inputs),
        *(f"    , .{name}({name})" for name, _ in outputs),
        "  );",
        "endmodule",
    ]
    return Design(design.text + "\n" + "\n".join(lines) + "\n", _WRAPPER, design.ports)


def trace_kind(path: Path | None) -> Trace:
    """Which waveform writer a file needs.

    Raises:
        DeviceError: its suffix is neither .vcd nor .fst.
    """
    if path is None:
        return ""
    kinds: dict[str, Trace] = {".vcd": "vcd", ".fst": "fst"}
    if path.suffix not in kinds:
        raise DeviceError(f"Trace must be a .vcd or .fst file, not {str(path)!r}")
    return kinds[path.suffix]


def _strings(texts: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * max(len(texts), 1))(*(text.encode() for text in texts))


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, big, small = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32
    text, flag = ctypes.c_char_p, ctypes.c_bool
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "host_new": (pointer, (pointer, small, text, pointer, small, pointer, big, pointer, small)),
        "host_delete": (None, (pointer,)),
        "host_attach": (None, (pointer, small, pointer, big)),
        "host_error": (None, (pointer, small, big, big, flag, flag)),
        "host_clear_errors": (None, (pointer,)),
        "host_reset": (None, (pointer, big)),
        "host_run": (None, (pointer, big)),
        "host_write": (ctypes.c_int, (pointer, small, small)),
        "host_read": (ctypes.c_int, (pointer, small, pointer)),
        "host_wait": (ctypes.c_int, (pointer, small, small, big, big, ctypes.c_double)),
        "host_cycles": (big, (pointer,)),
        "host_statistics": (None, (pointer, small, pointer)),
        "host_violation": (text, (pointer,)),
        "host_trace": (ctypes.c_int, (pointer, text)),
        "host_flush": (None, (pointer,)),
        "host_record": (None, (pointer, flag)),
        "host_slices": (big, (pointer, pointer)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
