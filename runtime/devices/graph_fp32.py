# SPDX-License-Identifier: Apache-2.0
"""Device ``graph-fp32``: the imported model in plain FP32 on the host, the yardstick for every compressed program."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from catenary.runtime.devices import DeviceInfo
from catenary.runtime.engine import Counters, Engine, FloatModel, Source
from catenary.sim.float_graph import FloatGraph


class FloatEngine(Engine):
    """Runs a float graph; see :class:`~catenary.runtime.engine.Engine`. It counts nothing."""

    device = "graph-fp32"
    source: Source = "wall"

    def __init__(self, model: FloatModel) -> None:
        """Prepare ``model``'s graph, which must be in float form."""
        self.vocab = model.graph.vocab
        self.max_context = model.graph.max_context
        self._graph = FloatGraph(model.graph)

    def reset(self) -> None:
        """Forget the sequence."""
        self._graph.reset()

    def run(self, ids: Sequence[int], position: int, all_logits: bool = False) -> NDArray[np.float32]:
        """Process ``ids``; float32 [1, vocab] or, with ``all_logits``, [len(ids), vocab]."""
        return self._graph.run(ids, position, all_logits)

    def counters(self) -> Counters:
        """All ``None``."""
        return Counters()

    def close(self) -> None:
        """Nothing to free."""


def _available() -> tuple[bool, str]:
    return True, "the imported model in FP32, on the host (numpy)"


DEVICE = DeviceInfo("graph-fp32", "wall", _available, FloatEngine, takes="model")
