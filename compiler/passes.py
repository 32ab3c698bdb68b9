# SPDX-License-Identifier: Apache-2.0
"""The passes, in the order in which :mod:`catenary.compiler.pipeline` runs them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from catenary.compiler.buffers import plan_buffers
from catenary.compiler.builder import flatten
from catenary.compiler.compress import Compress
from catenary.compiler.emit import emit_decode, emit_prefill
from catenary.compiler.emit_frame import Plans
from catenary.compiler.legalise import legalise
from catenary.compiler.memory_plan import plan_memory
from catenary.compiler.schedule import schedule
from catenary.compiler.state import Compilation, Progress
from catenary.compiler.tokens import assign_tokens
from catenary.isa.code_check import check_code, check_fits
from catenary.isa.encoding import encode_all
from catenary.isa.errors import CompileError
from catenary.isa.instructions import Instruction
from catenary.isa.opcodes import WORD_BYTES
from catenary.isa.program import ENTRIES


@dataclass(frozen=True)
class CompressWeights:
    """Prune and quantise the weights: the float form becomes the quantised form."""

    name: ClassVar[str] = "compress"
    compress: Compress

    def apply(self, state: Compilation, progress: Progress) -> Compilation:
        """See :class:`~catenary.compiler.compress.Compress`."""
        graph = self.compress.apply(state.graph, lambda name, done, total: progress(name, done / max(1, total)))
        return replace(state, graph=graph)


@dataclass(frozen=True)
class Legalise:
    """Refuse what the instruction set cannot express; fill in the types of all values."""

    name: ClassVar[str] = "legalise"

    def apply(self, state: Compilation, progress: Progress) -> Compilation:
        """See :func:`~catenary.compiler.legalise.legalise`."""
        return replace(state, types=legalise(state.graph, state.config))


@dataclass(frozen=True)
class Fuse:
    """Group nodes into steps: linear layers with one input fuse, the head absorbs what follows it."""

    name: ClassVar[str] = "fuse"

    def apply(self, state: Compilation, progress: Progress) -> Compilation:
        """See :func:`~catenary.compiler.schedule.schedule`."""
        return replace(state, schedules=schedule(state.graph))


@dataclass(frozen=True)
class PlanMemory:
    """Place weights, constants, tables, KV cache, ids and logits in memory, and write the image."""

    name: ClassVar[str] = "plan-memory"

    def apply(self, state: Compilation, progress: Progress) -> Compilation:
        """See :func:`~catenary.compiler.memory_plan.plan_memory`."""
        assert state.schedules is not None
        memory = plan_memory(state.graph, state.schedules, state.config, lambda share: progress("layers", share))
        return replace(state, memory=memory)


@dataclass(frozen=True)
class AllocateBuffers:
    """Give every value and scratch area a place on chip; choose how many tokens a prefill pass takes."""

    name: ClassVar[str] = "allocate-buffers"

    def apply(self, state: Compilation, progress: Progress) -> Compilation:
        """See :func:`~catenary.compiler.buffers.plan_buffers`."""
        assert state.schedules is not None
        assert state.types is not None
        assert state.memory is not None
        most = {"prefill": state.config.mm_tokens, "decode": 1}
        plans = {
            entry: plan_buffers(state.graph, state.schedules, state.types, state.memory, state.config, most[entry])
            for entry in ENTRIES
        }
        needed = state.memory.tables.size + plans["prefill"].tokens
        if needed > state.config.desc_words:
            raise CompileError(
                f"Descriptor buffer must hold {needed} words for the tables and a pass of ids, not the "
                f"{state.config.desc_words} of {state.config.name!r}"
            )
        return replace(state, buffers=plans)


@dataclass(frozen=True)
class Emit:
    """Write the code of both entry points, with the storage that each instruction touches."""

    name: ClassVar[str] = "emit"

    def apply(self, state: Compilation, progress: Progress) -> Compilation:
        """See :mod:`catenary.compiler.emit`."""
        assert state.schedules is not None
        assert state.types is not None
        assert state.memory is not None
        assert state.buffers is not None
        code = {}
        for entry, emit in (("prefill", emit_prefill), ("decode", emit_decode)):
            plans = Plans(state.graph, state.types, state.config, state.memory, state.buffers[entry])
            code[entry] = emit(plans, state.schedules)
        return replace(state, code=code)


@dataclass(frozen=True)
class AssignTokens:
    """Turn dependences between units into wait and release bits."""

    name: ClassVar[str] = "assign-tokens"

    def apply(self, state: Compilation, progress: Progress) -> Compilation:
        """See :func:`~catenary.compiler.tokens.assign_tokens`."""
        assert state.code is not None
        return replace(state, code={entry: assign_tokens(code) for entry, code in state.code.items()})


@dataclass(frozen=True)
class Encode:
    """Encode the instructions, check them as a loader would, and check that they fit."""

    name: ClassVar[str] = "encode"

    def apply(self, state: Compilation, progress: Progress) -> Compilation:
        """Fill in ``words`` and ``entries``."""
        assert state.code is not None
        entries: dict[str, int] = {}
        flat: list[Instruction] = []
        for entry, code in state.code.items():
            entries[entry] = len(flat)
            flat += flatten(code)
        if len(flat) > state.config.instruction_words:
            raise CompileError(
                f"Program must have at most the {state.config.instruction_words} instructions that "
                f"{state.config.name!r} holds, not {len(flat)}"
            )
        check_code(flat, entries.values())
        check_fits(flat, state.config)
        words = encode_all(flat)
        assert len(words) == len(flat) * WORD_BYTES
        return replace(state, words=words, entries=entries)
