# SPDX-License-Identifier: Apache-2.0
"""The host side of a program: load it once, then ring the doorbell for each prefill and decode step.

Written once against :class:`~catenary.runtime.device.MemoryDevice`, so simulators and boards run the same code. Between
decode steps the host writes an id, a position and a doorbell; :attr:`ProgramEngine.doorbell_bytes` counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import DeviceError, ExecutionError, UsageError
from catenary.isa.memory import row_layout
from catenary.isa.opcodes import WORD_BYTES
from catenary.isa.program import Program
from catenary.runtime.device import MemoryDevice
from catenary.runtime.engine import Counters, Engine, Source

ARGUMENT_BYTES = 8
"""A scalar argument is one 64-bit register."""
START_BYTES = 8
"""ENTRY and CONTROL, one 32-bit register each: the doorbell."""
TIMEOUT_S = 600.0
"""Seconds of host time that one prefill or decode step may take, unless an engine is told otherwise."""


@dataclass(frozen=True)
class SequenceState:
    """A sequence as far as it has run.

    Attributes:
        length: positions that have run.
        kv: the KV cache, as it lies in memory.
    """

    length: int
    kv: bytes


class ProgramEngine(Engine):
    """A program on a memory-level device.

    Args:
        name: the device's name.
        source: where its figures come from.
        program: what to run.
        device: not yet open; the engine opens and closes it.
        timeout_s: seconds of host time that one prefill or decode step may take.

    Raises:
        DeviceError: the device is not there, or its memory is too small.
    """

    def __init__(
        self, name: str, source: Source, program: Program, device: MemoryDevice, timeout_s: float | None = None
    ) -> None:
        self.device = name
        self.source = source
        self.vocab = program.graph.vocab
        self.max_context = program.graph.max_context
        self.doorbell_bytes = 0
        self._program = program
        self._device = device
        self._timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
        self._logits = row_layout(program.config, self.vocab * 4)
        self._ids = row_layout(program.config, 8)
        self._length = 0
        self._nan_seen = False
        self._base = Counters()
        device.open()
        try:
            self._upload()
        except BaseException:
            device.close()
            raise

    def _upload(self) -> None:
        memory = self._program.memory
        line = self._device.allocate(memory.lines * self._program.config.line_bytes)
        if line != 0:
            raise DeviceError(f"Program must lie at line 0 of {self.device}, not at line {line}")
        self._device.write(memory.code.line, self._program.code)
        self._device.write(memory.tables.line, self._program.tables)
        self._device.write(memory.image.line, np.ascontiguousarray(self._program.image).reshape(-1).data)
        self._device.load_code(memory.code.line, len(self._program.code) // WORD_BYTES)

    def reset(self) -> None:
        """Forget the sequence and set the counters to zero."""
        self._length = 0
        self._nan_seen = False
        self.doorbell_bytes = 0
        self._base = self._device.counters()

    def state(self) -> SequenceState:
        """The sequence so far, to go on with later, or on another device with the same program."""
        kv, line_bytes = self._program.memory.kv, self._program.config.line_bytes
        return SequenceState(self._length, self._device.read(kv.line, kv.lines * line_bytes))

    def resume(self, state: SequenceState) -> None:
        """Go on with a sequence of this program, in place of the one so far.

        Raises:
            UsageError: it is a sequence of another program.
        """
        kv, line_bytes = self._program.memory.kv, self._program.config.line_bytes
        if len(state.kv) != kv.lines * line_bytes or not 0 <= state.length <= self.max_context:
            raise UsageError(
                f"Sequence must have a KV cache of {kv.lines * line_bytes:,} bytes for at most {self.max_context} "
                f"positions, not one of {len(state.kv):,} bytes with {state.length} positions"
            )
        self._device.write(kv.line, state.kv)
        self._length = state.length

    def run(self, ids: Sequence[int], position: int, all_logits: bool = False) -> NDArray[np.float32]:
        """Process ``ids``; see :meth:`Engine.run`.

        Raises:
            UsageError: an id outside the vocabulary, or positions outside the context or behind a gap.
            ExecutionError: the program broke a rule on the device.
        """
        self._check(ids, position)
        if len(ids) == 1:
            self._start("decode", [position, ids[0]])
            self._length = position + 1
            return self._read_logits(1)
        batches = []
        step = self._program.counts.logit_rows if all_logits else len(ids)
        for first in range(0, len(ids), step):
            batch = ids[first : first + step]
            words = np.asarray(batch, "<u8").view(np.uint8).reshape(len(batch), 8)
            lines = self._ids.scatter(words, self._program.config.line_bytes)
            self._device.write(self._program.memory.ids.line, lines.reshape(-1).data)
            self._start("prefill", [position + first, len(batch), 0 if all_logits else len(batch) - 1])
            batches.append(self._read_logits(len(batch) if all_logits else 1))
            self._length = position + first + len(batch)
        return np.concatenate(batches)

    def _check(self, ids: Sequence[int], position: int) -> None:
        for token in ids:
            if not 0 <= token < self.vocab:
                raise UsageError(f"Token id must be in 0..{self.vocab - 1}, not {token}")
        if not ids:
            raise UsageError("A run must have at least one token id, not none")
        if not 0 <= position <= self._length:
            raise UsageError(f"Position must be in 0..{self._length}, the positions that have run, not {position}")
        if position + len(ids) > self.max_context:
            raise UsageError(
                f"Positions must be below the context of {self.max_context}, not up to {position + len(ids) - 1}"
            )

    def _start(self, entry: str, arguments: Sequence[int]) -> None:
        self.doorbell_bytes += ARGUMENT_BYTES * len(arguments) + START_BYTES
        status = self._device.run(self._program.entries[entry], arguments, self._timeout_s)
        self._nan_seen |= status.numeric
        if not status.done:
            raise ExecutionError(
                f"{entry} must finish on {self.device}, not stop at instruction {status.pc}: {status.cause.name}"
            )

    def _read_logits(self, rows: int) -> NDArray[np.float32]:
        config = self._program.config
        lines = self._device.read(self._program.memory.logits.line, self._logits.lines(rows) * config.line_bytes)
        raw = self._logits.gather(np.frombuffer(lines, np.uint8).reshape(-1, config.line_bytes), rows)
        return np.ascontiguousarray(raw).view("<f4").astype(np.float32).reshape(rows, self.vocab)

    @property
    def nan_seen(self) -> bool:
        """The sticky numeric flag of all runs since the last reset."""
        return self._nan_seen

    def counters(self) -> Counters:
        """Counts since the engine was opened or last reset."""
        return self._device.counters().since(self._base)

    def close(self) -> None:
        """Close the device."""
        self._device.close()
