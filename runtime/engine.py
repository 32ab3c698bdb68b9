# SPDX-License-Identifier: Apache-2.0
"""What generation needs from a device: run token ids at a position, get logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from catenary.isa.graph import Graph

Source = Literal["wall", "rtl", "model", "board"]
"""Where a device's figures come from: host seconds, simulated cycles, the timing model, or a board."""


@dataclass(frozen=True)
class Counters:
    """What a device counted since it was opened or last reset; ``None`` where it does not count.

    Attributes:
        cycles: clock cycles of the accelerator.
        bytes_read: bytes that crossed the memory ports towards the accelerator.
        bytes_written: bytes that crossed them the other way.
        port_bytes_per_cycle: bytes that all memory ports together can move in one cycle.
    """

    cycles: int | None = None
    bytes_read: int | None = None
    bytes_written: int | None = None
    port_bytes_per_cycle: int | None = None

    def since(self, base: Counters) -> Counters:
        """What was counted after ``base`` was read."""
        return Counters(
            _since(self.cycles, base.cycles),
            _since(self.bytes_read, base.bytes_read),
            _since(self.bytes_written, base.bytes_written),
            self.port_bytes_per_cycle,
        )


@dataclass(frozen=True)
class UnitCounters:
    """How a unit of a core spent the cycles of its runs.

    Attributes:
        busy: cycles in which it held an instruction, stalled or not.
        idle: the others.
        stalled: cycles of ``busy`` in which it waited, by what for (:class:`~catenary.isa.registers.Stall`).
    """

    busy: int
    idle: int
    stalled: Mapping[str, int]


@dataclass(frozen=True)
class CoreCounters(Counters):
    """What a core's own registers count.

    Attributes:
        units: by name.
    """

    units: Mapping[str, UnitCounters] = field(default_factory=dict)

    def since(self, base: Counters) -> CoreCounters:
        """What was counted after ``base`` was read."""
        before = base.units if isinstance(base, CoreCounters) else {}
        units = dict(self.units)
        for name, old in before.items():
            now = units[name]
            stalled = {reason: count - old.stalled[reason] for reason, count in now.stalled.items()}
            units[name] = UnitCounters(now.busy - old.busy, now.idle - old.idle, stalled)
        plain = super().since(base)
        return CoreCounters(plain.cycles, plain.bytes_read, plain.bytes_written, plain.port_bytes_per_cycle, units)


def _since(value: int | None, base: int | None) -> int | None:
    return None if value is None else value - (base or 0)


class Engine(Protocol):
    """A model, loaded on a device, with the KV cache of one sequence.

    Subclass it for the context manager, or match it structurally.

    Attributes:
        device: name of what really runs.
        source: where its figures come from.
        vocab: number of token ids, which is the width of a row of logits.
        max_context: positions that the KV cache holds.
    """

    device: str
    source: Source
    vocab: int
    max_context: int

    def reset(self) -> None:
        """Forget the sequence and set the counters to zero."""

    def run(self, ids: Sequence[int], position: int, all_logits: bool = False) -> NDArray[np.float32]:
        """Process ``ids`` at positions ``position``, ``position + 1`` ...; everything before must have run already.

        Args:
            ids: at least one token id, each in ``0 .. vocab - 1``.
            position: of the first id; ``position + len(ids)`` must be at most ``max_context``.
            all_logits: whether to return a row for each id instead of the last one only.

        Returns:
            float32 [1, vocab], or [len(ids), vocab] with ``all_logits``.

        Raises:
            ExecutionError: the program broke a rule; the message names the instruction.
        """
        ...

    def counters(self) -> Counters:
        """Counts since the engine was opened or last reset."""
        ...

    @property
    def nan_seen(self) -> bool:
        """Whether a NaN was quantised to 0 since the engine was opened or last reset: results mean nothing then."""
        return False

    def close(self) -> None:
        """Free the device. Closing twice is harmless."""

    def __enter__(self) -> Self:
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the engine."""
        self.close()


class FloatModel(Protocol):
    """An imported, uncompressed model, as the float devices and the tokenizer need it."""

    @property
    def graph(self) -> Graph:
        """The model in float form."""
        ...

    @property
    def tokenizer_json(self) -> str | None:
        """Text of ``tokenizer.json``, if the checkpoint has one."""
        ...

    @property
    def tokenizer_config(self) -> Mapping[str, object]:
        """``add_bos_token`` (bool), ``bos_id`` (int or None) and ``eos_ids`` (list of int)."""
        ...
