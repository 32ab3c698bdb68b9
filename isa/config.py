# SPDX-License-Identifier: Apache-2.0
"""The accelerator configuration: every size that hardware, compiler and simulators share.

A configuration's hash stands in each program file and in each device; a device refuses a program made for another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from catenary.isa.errors import ConfigError
from catenary.isa.numbers import PARTIALS
from catenary.isa.tensors import BLOCK, KEPT_CHOICES

SIZE_LIMIT = 1 << 28
"""Largest value of a parameter: beyond every device, and within what a simulator can set up."""
LIMITS = {"memory_bytes": 1 << 48}
"""Parameters that have another limit."""


@dataclass(frozen=True)
class AcceleratorConfig:
    """Parameters of one accelerator core.

    Attributes:
        name: for people; not part of the hash.
        port_bytes: width of each memory port in bytes. A *line* is one beat of every port together; all memory
            addresses count lines, so ports may be unequal and no power of two.
        memory_bytes: memory behind the ports, in bytes.
        chains: DSP chains.
        chain_length: DSPs in one chain.
        mm_tokens: accumulators per output lane, which is the most token rows that one matrix instruction serves.
        packed: two tokens share one DSP in MM.
        stream_atom: bytes to which every section of a weight stream is padded (the gearbox's step).
        stream_bytes: capacity of the weight prefetch FIFO.
        vector_words: FP32 words of the vector buffer V.
        vector_lanes: elements that the vector unit handles per cycle, a power of two.
        act_bytes: bytes of the activation buffer A.
        desc_words: 64-bit words of the descriptor buffer D.
        instruction_words: instructions that the instruction buffer holds.
        queue_depth: entries of each unit's instruction queue.
    """

    name: str
    port_bytes: tuple[int, ...]
    memory_bytes: int
    chains: int
    chain_length: int
    mm_tokens: int
    packed: bool
    stream_atom: int
    stream_bytes: int
    vector_words: int
    vector_lanes: int
    act_bytes: int
    desc_words: int
    instruction_words: int
    queue_depth: int

    def __post_init__(self) -> None:
        """Check every rule.

        Raises:
            ConfigError: names the parameter, the rule and the value.
        """
        if not self.port_bytes or any(not 4 <= width <= 128 or width & (width - 1) for width in self.port_bytes):
            raise ConfigError(f"port_bytes must be one or more powers of two from 4 to 128, not {self.port_bytes}")
        for field in fields(self):
            value, limit = getattr(self, field.name), LIMITS.get(field.name, SIZE_LIMIT)
            if field.type == "int" and value < 1:
                raise ConfigError(f"{field.name} must be at least 1, not {value}")
            if field.type == "int" and value > limit:
                raise ConfigError(f"{field.name} must be at most {limit}, not {value}")
        if self.line_bytes < 8:
            raise ConfigError(f"The ports together must be at least 8 bytes wide, not {self.line_bytes}")
        for name, unit in (
            ("chain_length", BLOCK),
            ("act_bytes", BLOCK),
            ("stream_atom", 4),
            ("vector_words", PARTIALS),
        ):
            if getattr(self, name) % unit:
                raise ConfigError(f"{name} must be a multiple of {unit}, not {getattr(self, name)}")
        if self.vector_lanes > PARTIALS or self.vector_lanes & (self.vector_lanes - 1):
            raise ConfigError(f"vector_lanes must be a power of two of at most {PARTIALS}, not {self.vector_lanes}")
        if self.mm_tokens < 2:
            raise ConfigError(f"mm_tokens must be at least 2 (P has two parts), not {self.mm_tokens}")
        if self.stream_bytes < 2 * self.line_bytes:
            raise ConfigError(f"stream_bytes must hold two lines of {self.line_bytes} bytes, not {self.stream_bytes}")

    @property
    def line_bytes(self) -> int:
        """Bytes of one line: one beat of every port."""
        return sum(self.port_bytes)

    @property
    def memory_lines(self) -> int:
        """Lines behind the ports."""
        return self.memory_bytes // self.line_bytes

    def block_rows(self, kept: int) -> int:
        """Rows of a full row block of N = ``kept``: what all chains together work on at once."""
        if kept not in KEPT_CHOICES:
            raise ConfigError(f"N must be one of {KEPT_CHOICES}, not {kept}")
        return self.chains * self.chain_length // kept

    @property
    def groups(self) -> int:
        """Groups of 16 lanes."""
        return self.chains * self.chain_length // BLOCK

    @property
    def fill_groups(self) -> int:
        """Groups that are written in one cycle: all of them in the cycles in which lines bring 4-bit codes for them."""
        cycles = max(1, self.groups * (BLOCK // 2) // self.line_bytes)
        return -(-self.groups // cycles)

    def context_rows(self, depth: int) -> int:
        """Query rows that one CONTEXT instruction serves: each channel of ``depth`` needs two accumulators a row.

        All ``chains * chain_length`` lanes have ``mm_tokens`` accumulators each; more channels than lanes take turns.
        """
        turns = -(-max(depth, 1) // (self.chains * self.chain_length))
        return self.mm_tokens // (2 * turns)

    def lines(self, nbytes: int) -> int:
        """Lines that ``nbytes`` bytes occupy."""
        return -(-nbytes // self.line_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON stores them."""
        return {**asdict(self), "port_bytes": list(self.port_bytes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AcceleratorConfig:
        """Inverse of :meth:`to_dict`.

        Raises:
            ConfigError: a missing, unknown or wrongly typed parameter, or one that breaks a rule.
        """
        wanted = {f.name: f.type for f in fields(cls)}
        if set(values) != set(wanted):
            odd = sorted(set(values) ^ set(wanted))
            raise ConfigError(
                f"Accelerator parameters must be exactly {sorted(wanted)}, not with {odd} missing or added"
            )
        checked: dict[str, Any] = {}
        for name, kind in wanted.items():
            value = values[name]
            if name == "port_bytes":
                if not isinstance(value, list | tuple) or any(type(item) is not int for item in value):
                    raise ConfigError(f"port_bytes must be a list of integers, not {value!r}")
                value = tuple(value)
            elif type(value).__name__ != kind:
                raise ConfigError(f"{name} must be of type {kind}, not {value!r}")
            checked[name] = value
        return cls(**checked)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that identify the hardware (the name does not count)."""
        values = {key: value for key, value in self.to_dict().items() if key != "name"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
