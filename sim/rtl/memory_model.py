# SPDX-License-Identifier: Apache-2.0
"""How fast the simulated memories are: options only, the model itself is ``axi_memory.h``."""

from __future__ import annotations

from dataclasses import dataclass

from catenary.isa.errors import ConfigError


@dataclass(frozen=True)
class MemoryModel:
    """Timing of the memory behind each port; all ports are alike, but each blocks at times of its own.

    The defaults are DRAM that refreshes: 92.4 % of the cycles move data, the ceiling measured on the HBM of a U280
    (60 of 790), and 120 cycles of latency. A port moves one beat a cycle, read or written, as DRAM pins do.

    Attributes:
        blocked: cycles of every period in which no data moves; the phase is random.
        period: cycles; 0 for memory that never blocks.
        latency: cycles from an accepted address to the first data, and from the last data to the write's response.
        outstanding: read bursts, and write bursts, that a port accepts in advance.
        share: of the cycles that are not blocked, the share in which a beat may move, for memory that is slower than
            its port.
        stall: probability that a channel that could go on does not, in each cycle; for tests.
        seed: of phases and stalls.
    """

    blocked: int = 60
    period: int = 790
    latency: int = 120
    outstanding: int = 64
    share: float = 1.0
    stall: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every rule.

        Raises:
            ConfigError: names the parameter, the rule and the value.
        """
        for name, low in (("blocked", 0), ("period", 0), ("latency", 1), ("outstanding", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"Memory model {name} must be at least {low}, not {getattr(self, name)}")
        if self.period and self.blocked >= self.period:
            raise ConfigError(f"Memory model blocked must be below the period of {self.period}, not {self.blocked}")
        if not 0 < self.share <= 1:
            raise ConfigError(f"Memory model share must be above 0 and at most 1, not {self.share}")
        if not 0 <= self.stall < 1:
            raise ConfigError(f"Memory model stall must be at least 0 and below 1, not {self.stall}")

    @classmethod
    def unthrottled(cls, latency: int = 1, stall: float = 0.0, seed: int = 0) -> MemoryModel:
        """Memory that never blocks: it shows what the core itself can do."""
        return cls(blocked=0, period=0, latency=latency, stall=stall, seed=seed)
