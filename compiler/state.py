# SPDX-License-Identifier: Apache-2.0
"""What flows through the compiler's passes, and what a pass is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from catenary.compiler.buffers import BufferPlan
from catenary.compiler.builder import LoopOp, Op
from catenary.compiler.memory_plan import MemoryPlan
from catenary.compiler.schedule import StageSchedule
from catenary.isa.config import AcceleratorConfig
from catenary.isa.graph import Graph, ValueType

Progress = Callable[[str, float], None]
"""Called with the name of what is being done and the share of it that is done, 0 to 1."""


@dataclass(frozen=True)
class Compilation:
    """A model on its way to a program. Each pass fills in its field and leaves the others.

    Attributes:
        config: the accelerator.
        graph: float form at first, quantised after ``compress``.
        types: type of every value, by stage and name (``legalise``).
        schedules: the steps of every stage (``fuse``).
        memory: places in memory and the image (``plan-memory``).
        buffers: places on chip, by entry point (``allocate-buffers``).
        code: structured code, by entry point (``emit``, ``assign-tokens``).
        words: encoded instructions (``encode``).
        entries: index of the first instruction of each entry point (``encode``).
    """

    config: AcceleratorConfig
    graph: Graph
    types: Mapping[str, Mapping[str, ValueType]] | None = None
    schedules: tuple[StageSchedule, ...] | None = None
    memory: MemoryPlan | None = None
    buffers: Mapping[str, BufferPlan] | None = None
    code: Mapping[str, list[Op | LoopOp]] | None = None
    words: bytes | None = None
    entries: Mapping[str, int] | None = None


class Pass(Protocol):
    """One step of the compiler: valid in, valid out, nothing changed in place."""

    @property
    def name(self) -> str:
        """Name in listings and errors."""

    def apply(self, state: Compilation, progress: Progress) -> Compilation:
        """The next state.

        Raises:
            CatenaryError: the model or its options break a rule that this pass checks.
        """
