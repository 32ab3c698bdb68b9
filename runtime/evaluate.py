# SPDX-License-Identifier: Apache-2.0
"""Perplexity of a model on a text, scored alike on every device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import UsageError

SEPARATOR = "<|endoftext|>"
"""Stands between the documents of a text by default."""


class Scorer(Protocol):
    """The part of an :class:`~catenary.runtime.engine.Engine` that scoring needs."""

    def reset(self) -> None:
        """Forget the sequence."""

    def run(self, ids: Sequence[int], position: int, all_logits: bool = False) -> NDArray[np.float32]:
        """Logits of ``ids``, float32 [len(ids), vocab] with ``all_logits``."""
        ...


class Encoder(Protocol):
    """The part of a :class:`~catenary.runtime.tokenizer.TextTokenizer` that scoring needs."""

    @property
    def bos_id(self) -> int | None:
        """Id of the beginning-of-sequence token, if there is one."""
        ...

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Token ids of ``text``, with ``bos`` the BOS token in front where the tokenizer asks for it."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``."""
        ...


@dataclass(frozen=True)
class EvalResult:
    """How well a model predicts a text.

    Attributes:
        perplexity: exp of the mean negative log probability of a token.
        bits_per_byte: bits that the scored tokens cost per UTF-8 byte of the text that they stand for.
        tokens: how many were scored.
        seconds: wall time.
    """

    perplexity: float
    bits_per_byte: float
    tokens: int
    seconds: float


def evaluate(
    engine: Scorer,
    tokenizer: Encoder,
    text: str,
    max_tokens: int | None = None,
    separator: str = SEPARATOR,
    context: int = 512,
    progress: Callable[[int], None] | None = None,
) -> EvalResult:
    """Score ``text``: each document in windows of ``context - 1`` tokens, each window after its own BOS token.

    A document that ``max_tokens`` cuts off counts the bytes of its scored tokens alone.

    Args:
        engine: runs the model; it is reset for each window.
        tokenizer: of that model; must have a BOS token.
        text: documents with ``separator`` between them; white space around a document does not count.
        max_tokens: stop after so many scored tokens; by default score everything.
        separator: at least one character.
        context: positions that a window may take, BOS included; at least 2.
        progress: is called with the number of tokens scored so far, after each window.

    Raises:
        UsageError: an argument breaks its rule, or there is nothing to score.
    """
    if not separator:
        raise UsageError("Separator must be at least one character, not empty")
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"Maximum of scored tokens must be at least 1, not {max_tokens}")
    if context < 2:
        raise UsageError(f"Context must be at least 2 tokens, not {context}")
    bos = tokenizer.bos_id
    if bos is None:
        raise UsageError("Tokenizer must have a BOS token to score text, not none")
    started = time.perf_counter()
    cost, scored, size = 0.0, 0, 0
    for ids, document in _documents(tokenizer, text, separator):
        wanted = len(ids) if max_tokens is None else min(len(ids), max_tokens - scored)
        for start in range(0, wanted, context - 1):
            window = ids[start : min(start + context - 1, wanted)]
            engine.reset()
            cost += cross_entropy(engine.run([bos, *window[:-1]], 0, all_logits=True), window)
            scored += len(window)
            if progress is not None:
                progress(scored)
        size += len((document if wanted == len(ids) else tokenizer.decode(ids[:wanted])).encode())
        if scored == max_tokens:
            break
    if not scored:
        raise UsageError("Text must hold at least one token to score, not none")
    bits = cost / math.log(2)  # host: a figure for people
    perplexity = math.exp(cost / scored)  # host: a figure for people
    return EvalResult(perplexity, bits / max(size, 1), scored, time.perf_counter() - started)


def cross_entropy(logits: NDArray[np.float32], targets: Sequence[int]) -> float:
    """Sum of the negative natural log probabilities of ``targets`` [n] under ``logits`` [n, vocab], in FP64."""
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        wide = row.astype(np.float64)
        top = float(wide.max())
        total += top + math.log(float(np.exp(wide - top).sum())) - float(wide[target])  # host: no device repeats it
    return total


def _documents(tokenizer: Encoder, text: str, separator: str) -> Iterator[tuple[list[int], str]]:
    """Token ids and text of every document that is not blank, without BOS."""
    for part in text.split(separator):
        document = part.strip()
        if document:
            yield tokenizer.encode(document, bos=False), document
