# SPDX-License-Identifier: Apache-2.0
"""The parts of the core that mutants are made in, and the accelerators that they are made on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from catenary.isa.config import AcceleratorConfig
from catenary.sim.rtl.core import TOP
from tests.programs.support import SMALL

PACKED = replace(
    SMALL, name="mutants-packed", memory_bytes=1 << 20, port_bytes=(16, 16), chains=2, mm_tokens=7, packed=True,
    stream_atom=4, stream_bytes=96, vector_words=4096, vector_lanes=2, act_bytes=16384, desc_words=128, queue_depth=2,
)  # fmt: skip
"""Two ports, lines in which rows of codes may be interleaved, lanes for two sums of 16, two tokens side by side."""

PLAIN = replace(PACKED, name="mutants-plain", packed=False, port_bytes=(8,), mm_tokens=8, stream_atom=8)
"""One port, one token at a time."""


@dataclass(frozen=True)
class Block:
    """A part of the core.

    Attributes:
        about: what it is, for people.
        parts: paths below the top of the components that it consists of, each with everything inside.
        alone: paths of components that belong to it without what is inside them.
        config: the accelerator.
        stimuli: what its mutants are tried with, names of :data:`tests.mutation.stimuli.GROUPS` in order.
    """

    about: str
    parts: tuple[str, ...]
    alone: tuple[str, ...] = ()
    config: AcceleratorConfig = PACKED
    stimuli: tuple[str, ...] = ("random",)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Its modules, as yosys selects them."""
        inner = tuple(f"{TOP}.{part}{end}" for part in self.parts for end in ("", ".*"))
        return (*inner, *(f"{TOP}.{part}" for part in self.alone))

    @property
    def roots(self) -> tuple[str, ...]:
        """Its modules that are inside no other of them."""
        outer = [part for part in self.parts if not any(part.startswith(f"{other}.") for other in self.alone)]
        return tuple(f"{TOP}.{part}" for part in (*outer, *self.alone))


_ATTENTION = ("bits-score", "bits-context")
_LOADS = ("bits-ld-v", "bits-ld-v-packed", "bits-ld-a", "bits-ld-a-packed", "bits-ld-d")
_STORES = ("bits-st-v", "bits-st-v-packed", "bits-st-a")
_VECTORS = tuple(f"bits-{name}" for name in ("norm", "apply", "combine", "rope", "quant", "softmax", "argmax"))
_CHAIN = Block(
    "hw/matrix and hw/dsp: array, accumulators, emitter", ("matrix.engine",), ("matrix",),
    stimuli=("random", "matrix", "errors", *_ATTENTION),
)  # fmt: skip

BLOCKS: Mapping[str, Block] = {
    "control": Block(
        "hw/control: registers, dispatch, decoder, tokens, shells, counters, watchdog", ("control",),
        stimuli=("random", "errors", "host", "control", "slow"),
    ),
    "dma": Block(
        "hw/memory: AXI masters, load and store units", ("load", "store"),
        stimuli=("random", "transfers", "sums", "errors", *_LOADS, *_STORES, "host", "slow"),
    ),
    "decoders": Block(
        "hw/stream: from lines of the stream to tiles", ("matrix.front",),
        stimuli=("random", "matrix", "streams", "errors", *_ATTENTION),
    ),
    "chain": _CHAIN,
    "chain-plain": replace(_CHAIN, config=PLAIN, about=f"{_CHAIN.about}; not packed"),
    "vector": Block(
        "hw/vector and hw/fp: the vector unit", ("vector",),
        stimuli=("random", "vector", "errors", *_VECTORS),
    ),
}  # fmt: skip
"""By name, as in figures."""

MEASURED = tuple(name for name in BLOCKS if name != "chain-plain")
"""Those that figures are made of."""
