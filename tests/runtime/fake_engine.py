# SPDX-License-Identifier: Apache-2.0
"""An engine without a model: its logits are a fixed function of the newest token and its position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from catenary.runtime.engine import Counters, Engine, Source


class FakeEngine(Engine):
    """Prefers token ``script[position + 1]`` after every position, or by a hash where there is no script."""

    device = "fake"
    source: Source = "wall"

    def __init__(self, vocab: int = 32, max_context: int = 16, script: Sequence[int] = ()) -> None:
        self.vocab = vocab
        self.max_context = max_context
        self.script = list(script)
        self.calls: list[tuple[list[int], int]] = []
        self.resets = 0
        self.closed = 0
        self.position = 0

    def reset(self) -> None:
        self.resets += 1
        self.position = 0

    def run(self, ids: Sequence[int], position: int, all_logits: bool = False) -> NDArray[np.float32]:
        assert position == self.position, "every position before must have run"
        assert position + len(ids) <= self.max_context, "no position behind the context"
        self.calls.append((list(ids), position))
        self.position = position + len(ids)
        rows = np.stack([self.row(token, position + index) for index, token in enumerate(ids)])
        return rows if all_logits else rows[-1:]

    def row(self, token: int, position: int) -> NDArray[np.float32]:
        rng = np.random.default_rng([token, position])
        row = rng.standard_normal(self.vocab).astype(np.float32)
        if position + 1 < len(self.script):
            row[self.script[position + 1]] = 100
        return row

    def counters(self) -> Counters:
        return Counters(cycles=10 * self.position)

    def close(self) -> None:
        self.closed += 1
