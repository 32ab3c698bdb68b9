# SPDX-License-Identifier: Apache-2.0
"""How each demo model is trained, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tools.demo_training.data import TrainingError
from tools.demo_training.model import Shape


@dataclass(frozen=True)
class Recipe:
    """Numbers of one training run; shares are of ``steps``.

    Attributes:
        steps: weight updates.
        batch: windows in each.
        rate: highest learning rate, reached after ``warmup`` steps; then it follows a cosine to 2 % of it.
        weight_decay: of matrices (AdamW).
        dropout: of the embedding and of what attention and feed-forward add.
        quantised_from: from this share on, every ``quantised_every``-th step runs in the device's numbers (4-bit
            weights, 8-bit activations, keys and values).
        refresh: steps between two searches for masks and scales.
        sparsity: ``none`` or ``N:16``.
        settle_at: share at which the masks become final (SR-STE until then).
        dropped_decay: of weights that are dropped at present, in units of the learning rate.
        distil: weight of the teacher's distribution against that of the text.
        balance: weight of the load-balancing loss of a mixture of experts.
    """

    steps: int
    batch: int = 32
    rate: float = 4e-3
    warmup: int = 200
    weight_decay: float = 0.3
    dropout: float = 0.2
    quantised_from: float = 1.0
    quantised_every: int = 1
    refresh: int = 100
    sparsity: str = "none"
    settle_at: float = 0.0
    dropped_decay: float = 2.0
    distil: float = 0.0
    balance: float = 0.0

    def __post_init__(self) -> None:
        """Check what people may set.

        Raises:
            TrainingError: names the value and its rule.
        """
        if self.steps < 1:
            raise TrainingError(f"Steps must be at least 1, not {self.steps}")
        if self.batch < 1:
            raise TrainingError(f"Batch must be at least 1 window, not {self.batch}")

    def rate_at(self, step: int) -> float:
        """Learning rate of ``step``, counted from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    def quantised_at(self, step: int) -> bool:
        """Whether ``step`` runs in the device's numbers."""
        first = round(self.quantised_from * self.steps)
        return step >= first and (step - first) % self.quantised_every == 0

    @property
    def settle_step(self) -> int:
        """First step with final masks."""
        return round(self.settle_at * self.steps)


SHAPES = {"dense": Shape(), "moe": Shape(ffn=44, experts=8)}
"""By kind of model; a sparse one has its teacher's shape."""

RECIPES = {
    "dense": Recipe(12000, quantised_from=0.85, quantised_every=2),
    "sparse": Recipe(12000, rate=3e-3, dropout=0.1, quantised_from=0.5, sparsity="8:16", settle_at=0.4, distil=0.5),
    "moe": Recipe(9000, balance=0.02),
}
"""By kind of model, chosen on the validation stories: many small batches and much weight decay, since the text is read
about 140 times."""
