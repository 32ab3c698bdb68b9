# SPDX-License-Identifier: Apache-2.0
"""Device ``reference``: the program's quantised graph on the host, as the definition of the arithmetic has it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import DeviceError
from catenary.isa.program import Program
from catenary.runtime.devices import DeviceInfo
from catenary.runtime.engine import Counters, Engine, Source
from catenary.sim.reference import Reference


class ReferenceEngine(Engine):
    """Runs the graph inside a program; see :class:`~catenary.runtime.engine.Engine`. It counts nothing."""

    device = "reference"
    source: Source = "wall"

    def __init__(self, program: Program) -> None:
        """Prepare ``program``'s graph; its code is not looked at.

        Raises:
            DeviceError: this computer has too little memory for it.
        """
        self.vocab = program.graph.vocab
        self.max_context = program.graph.max_context
        try:
            self._reference = Reference(program.graph)
        except MemoryError:
            context = self.max_context
            raise DeviceError(f"KV cache must fit into this computer, not be for {context} positions") from None

    def reset(self) -> None:
        """Forget the sequence."""
        self._reference.reset()

    def run(self, ids: Sequence[int], position: int, all_logits: bool = False) -> NDArray[np.float32]:
        """Process ``ids``; float32 [1, vocab] or, with ``all_logits``, [len(ids), vocab]."""
        return self._reference.run(ids, position, all_logits)

    @property
    def nan_seen(self) -> bool:
        """Whether a NaN was quantised to 0 since the last reset."""
        return self._reference.nan_seen

    def counters(self) -> Counters:
        """All ``None``."""
        return Counters()

    def close(self) -> None:
        """Nothing to free."""


def _available() -> tuple[bool, str]:
    return True, "the quantised graph, on the host (numpy)"


DEVICE = DeviceInfo("reference", "wall", _available, ReferenceEngine)
