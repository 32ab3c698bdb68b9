# SPDX-License-Identifier: Apache-2.0
"""The training loop: seeded, and resumable so that a run in pieces equals one in one piece."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from tools.demo_training.data import NO_TARGET, TrainingError, Windows
from tools.demo_training.model import DemoModel, balance_loss
from tools.demo_training.numbers import decay_dropped, set_numbers, settle_masks
from tools.demo_training.recipe import Recipe

Report = Callable[[str], None]

STATE = "resume.pt"
_LOG_EVERY, _SCORES, _SAVES = 100, 12, 6


class Trainer:
    """One model in training.

    Attributes:
        model, recipe: of the run.
        step: updates done.
        seconds: wall time of training so far, earlier pieces included.
        losses: (step, mean cross entropy in nats per token since the entry before).
        scores: (step, what ``score`` said).
    """

    def __init__(
        self, model: DemoModel, recipe: Recipe, windows: Windows, seed: int, teacher: DemoModel | None = None
    ) -> None:
        """Begin at step 0; ``model`` has its initial weights, ``teacher`` the same vocabulary."""
        self.model, self.recipe, self.step, self.seconds = model, recipe, 0, 0.0
        self.losses: list[tuple[int, float]] = []
        self.scores: list[tuple[int, float]] = []
        self._windows, self._teacher = windows, teacher
        self._device = model.cos.device
        self._entropy, self._counted = torch.zeros((), device=self._device), 0  # since the last entry of losses
        self._generator = torch.Generator().manual_seed(seed)
        matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
        gains = [parameter for parameter in model.parameters() if parameter.dim() != 2]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": gains, "weight_decay": 0.0}]
        cuda = self._device.type == "cuda"
        self._optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=cuda)
        self._loss = torch.compile(self._eager_loss, dynamic=False) if cuda else self._eager_loss
        self._fingerprint = {"recipe": asdict(recipe), "shape": model.shape.dims(), "seed": seed}

    def run(self, score: Callable[[], float], report: Report, directory: Path, tokenizer: Tokenizer, stop: int) -> None:
        """Train up to ``stop`` steps, or all.

        Args:
            score: figure of the present model on validation text, for the curve.
            report: takes lines for people.
            directory: gets the state to resume from, now and then and at the end.
            tokenizer: saved with the state.
            stop: leave after so many steps.
        """
        steps, started, before = self.recipe.steps, time.perf_counter(), self.seconds
        while self.step < min(steps, stop):
            self._entropy += self._update()
            self._counted += 1
            self.step += 1
            last = self.step == steps
            if self.step % max(steps // _SCORES, 1) == 0 or last:
                self.scores.append((self.step, score()))
                report(f"step {self.step}/{steps}: validation {self.scores[-1][1]:.4f} bits per byte")
            if self.step % _LOG_EVERY == 0 or last:
                self.losses.append((self.step, float(self._entropy) / self._counted))
                self._entropy.zero_()
                self._counted = 0
                self.seconds = before + time.perf_counter() - started
                rate = self.recipe.rate_at(self.step - 1)
                loss = self.losses[-1][1]
                report(f"step {self.step}/{steps}: loss {loss:.4f}, rate {rate:.2e}, {self.seconds:.0f} s")
                if self.step % max(steps // _SAVES // _LOG_EVERY * _LOG_EVERY, _LOG_EVERY) == 0 and not last:
                    self.save(directory, tokenizer)
        self.seconds = before + time.perf_counter() - started
        self.save(directory, tokenizer)

    def save(self, directory: Path, tokenizer: Tokenizer) -> None:
        """Write everything that the next step depends on, in one go."""
        state = {
            "fingerprint": self._fingerprint,
            "tokenizer": tokenizer.to_str(),
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "windows": self._generator.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
            "step": self.step,
            "seconds": self.seconds,
            "entropy": float(self._entropy),
            "counted": self._counted,
            "losses": self.losses,
            "scores": self.scores,
        }
        directory.mkdir(parents=True, exist_ok=True)
        temporary = directory / f"{STATE}.new"
        torch.save(state, temporary)
        os.replace(temporary, directory / STATE)

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what :func:`read_state` read.

        Raises:
            TrainingError: it is of a run with another recipe, shape or seed.
        """
        if state["fingerprint"] != self._fingerprint:
            raise TrainingError(f"{STATE} must be of a run with the same options, not {state['fingerprint']}")
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._generator.set_state(state["windows"])
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self._device)
        self.step, self.seconds = state["step"], state["seconds"]
        self._entropy.fill_(state["entropy"])
        self._counted = state["counted"]
        self.losses = [tuple(entry) for entry in state["losses"]]
        self.scores = [tuple(entry) for entry in state["scores"]]

    def _update(self) -> Tensor:
        """One step; returns the cross entropy, a scalar on the device."""
        recipe, step = self.recipe, self.step
        sparse = recipe.sparsity != "none"
        settled = step >= recipe.settle_step
        quantised = recipe.quantised_at(step)
        first = step in (0, recipe.settle_step, round(recipe.quantised_from * recipe.steps))
        if (first or step % recipe.refresh == 0) and (sparse or step >= recipe.quantised_from * recipe.steps):
            set_numbers(self.model, 4, recipe.sparsity)
            if sparse and step == recipe.settle_step:
                settle_masks(self.model)
        rate = recipe.rate_at(step)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        inputs, targets = self._windows.draw(recipe.batch, self._generator)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            loss, entropy = self._loss(inputs, targets, quantised)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad()
        if sparse and not settled:
            decay_dropped(self.model, 1 - rate * recipe.dropped_decay)
        return entropy.detach()

    def _eager_loss(self, inputs: Tensor, targets: Tensor, quantised: bool) -> tuple[Tensor, Tensor]:
        logits, routers = self.model(inputs, quantised)
        own = functional.log_softmax(logits.float().flatten(0, 1), -1)
        entropy = functional.nll_loss(own, targets.flatten(), ignore_index=NO_TARGET)
        loss = entropy
        if self._teacher is not None:
            with torch.no_grad():
                wanted = functional.log_softmax(self._teacher(inputs)[0].float().flatten(0, 1), -1)
            counts = (targets.flatten() != NO_TARGET).float()
            apart = (wanted.exp() * (wanted - own)).sum(-1)
            loss = (1 - self.recipe.distil) * entropy + self.recipe.distil * (apart * counts).sum() / counts.sum()
        if self.model.shape.experts:
            loss = loss + self.recipe.balance * balance_loss(routers, targets != NO_TARGET)
        return loss, entropy


def read_state(directory: Path) -> dict[str, Any]:
    """The state that :meth:`Trainer.save` left in ``directory``.

    Raises:
        TrainingError: there is none, or it is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(directory / STATE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{directory / STATE} must be a state to resume from, not: {error}") from error
    return state
