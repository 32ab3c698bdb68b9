# SPDX-License-Identifier: Apache-2.0
"""Text of the demo models: stories split into parts, the tokenizer, and random windows to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

SEPARATOR = "<|endoftext|>"
HELD_OUT = 150
"""Stories at the end of the text that nothing ever learns from."""

VALIDATION = 64
"""Stories among the others that choices are made on, evenly spaced."""

BOS, EOS = "<s>", "</s>"
BOS_ID, EOS_ID = 0, 1
NO_TARGET = -100


class TrainingError(ValueError):
    """An argument or a file of the training tool breaks a rule."""


@dataclass(frozen=True)
class Corpus:
    """Stories by what they are for; no story is in two parts.

    Attributes:
        training: what tokenizer and models learn from.
        validation: for choices during development.
        held_out: for the figures that are reported.
        sha256: of the file.
    """

    training: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: tuple[str, ...]
    sha256: str


def read_corpus(path: Path, held_out: int = HELD_OUT, validation: int = VALIDATION) -> Corpus:
    """Split the text at ``path``; a story is complete if a separator follows it.

    A story for training that occurs among the others word for word is left out.

    Raises:
        TrainingError: the file is not readable as UTF-8, or holds too few stories.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"Text {path} must be readable, not: {error.strerror or error}") from error
    # The end of the text may be cut inside a character; that story is incomplete and dropped anyway.
    complete = [story for part in raw.decode("utf-8", "replace").split(SEPARATOR)[:-1] if (story := part.strip())]
    rest = complete[:-held_out]
    if len(rest) < 2 * validation or not rest:
        needed = held_out + max(2 * validation, 1)
        raise TrainingError(f"Text must hold at least {needed} complete stories, not {len(complete)}")
    chosen = {index * len(rest) // validation for index in range(validation)}
    kept_back = [rest[index] for index in sorted(chosen)]
    seen = {*complete[-held_out:], *kept_back}
    return Corpus(
        training=tuple(story for story in rest if story not in seen),
        validation=tuple(kept_back),
        held_out=tuple(complete[-held_out:]),
        sha256=hashlib.sha256(raw).hexdigest(),
    )


def train_tokenizer(stories: Iterable[str], vocab: int) -> Tokenizer:
    """Byte-level BPE of ``vocab`` tokens: every text has an encoding, and BOS goes in front."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab < len(alphabet) + 2:
        raise TrainingError(f"Vocabulary must be at least {len(alphabet) + 2} tokens, not {vocab}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[BOS, EOS], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(stories, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
    return tokenizer


def encode(tokenizer: Tokenizer, stories: Sequence[str]) -> list[list[int]]:
    """Token ids of every story, without BOS and EOS."""
    return [encoding.ids for encoding in tokenizer.encode_batch(list(stories), add_special_tokens=False)]


class Windows:
    """Random windows of the training stories, each after its own BOS token as in scoring.

    A story is drawn in proportion to its length; half of the windows start at its beginning, the others anywhere that
    leaves ``context / 2`` tokens. A story ends with EOS; what follows has no target.
    """

    def __init__(self, stories: Sequence[Sequence[int]], context: int, device: torch.device) -> None:
        """Put ``stories`` (token ids without BOS and EOS) on ``device``."""
        lengths = torch.tensor([len(ids) + 1 for ids in stories])
        self._ends = lengths.cumsum(0)
        self._starts = self._ends - lengths
        self._lengths = lengths
        self._odds = lengths.double()
        self._context = context
        self._tokens = torch.tensor([token for ids in stories for token in (*ids, EOS_ID)], device=device)

    @property
    def tokens(self) -> int:
        """Tokens to learn from, EOS of every story included."""
        return len(self._tokens)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64 [batch, context] each, :data:`NO_TARGET` after the end of a story.

        ``generator`` must be on the CPU.
        """
        story = torch.multinomial(self._odds, batch, replacement=True, generator=generator)
        room = (self._lengths[story] - self._context // 2).clamp_min(0) + 1
        offset = (torch.rand(batch, generator=generator, dtype=torch.float64) * room).long()
        offset *= torch.randint(2, (batch,), generator=generator)
        bounds = torch.stack([self._starts[story] + offset, self._ends[story]])
        first, end = bounds.to(self._tokens.device, non_blocking=True)[:, :, None]
        place = first + torch.arange(self._context, device=self._tokens.device)
        text = self._tokens[place.clamp_max(len(self._tokens) - 1)]
        targets = torch.where(place < end, text, NO_TARGET)
        inputs = torch.where(place < end, text, EOS_ID).roll(1, dims=1)
        inputs[:, 0] = BOS_ID
        return inputs, targets
