# SPDX-License-Identifier: Apache-2.0
"""The scoring rule: documents, windows, BOS, and what is counted."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pytest

from catenary.compiler import importers
from catenary.isa.errors import UsageError
from catenary.runtime.evaluate import cross_entropy, evaluate
from catenary.runtime.tokenizer import tokenizer_of
from catenary.sim.float_graph import FloatGraph

VOCAB = 128


class Letters:
    """One token for each ASCII character; BOS is 0."""

    bos_id: int | None = 0

    def encode(self, text: str, bos: bool = True) -> list[int]:
        return [0] * bos + [ord(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


class Recorder:
    """Gives every token the same probability, and notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def run(self, ids: Sequence[int], position: int, all_logits: bool = False) -> np.ndarray:
        assert position == 0
        assert all_logits
        self.calls.append(("run", list(ids)))
        return np.zeros((len(ids), VOCAB), np.float32)

    def texts(self) -> list[str]:
        """What the windows hold behind their BOS tokens."""
        assert all(ids[0] == 0 for _, ids in self.calls)
        return ["".join(map(chr, ids[1:])) for _, ids in self.calls]


def test_documents_and_windows():
    engine, seen = Recorder(), []
    text = "  abcdefg \n<|endoftext|>\n\n<|endoftext|>hi<|endoftext|>"
    result = evaluate(engine, Letters(), text, context=4, progress=seen.append)
    assert engine.texts() == ["ab", "de", "", "h"]  # a window's last token is predicted, never read
    assert engine.resets == 4
    assert seen == [3, 6, 7, 9]
    assert result.tokens == 9
    assert result.perplexity == pytest.approx(VOCAB)
    assert result.bits_per_byte == pytest.approx(math.log2(VOCAB))
    assert result.seconds >= 0


def test_maximum_of_tokens_cuts_a_document():
    engine = Recorder()
    result = evaluate(engine, Letters(), "abcdef|ghi", max_tokens=4, separator="|", context=4)
    assert engine.texts() == ["ab", ""]
    assert result.tokens == 4
    assert result.bits_per_byte == pytest.approx(math.log2(VOCAB))


def test_maximum_of_tokens_at_the_end_of_a_document():
    engine = Recorder()
    assert evaluate(engine, Letters(), "abc|def", max_tokens=3, separator="|", context=9).tokens == 3
    assert len(engine.calls) == 1


def test_bits_count_bytes_and_not_characters():
    class Words(Letters):
        def encode(self, text: str, bos: bool = True) -> list[int]:
            return [1]

    result = evaluate(Recorder(), Words(), "é€")  # 2 and 3 bytes, one token
    assert result.bits_per_byte == pytest.approx(math.log2(VOCAB) / 5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"separator": ""}, "Separator must be at least one character, not empty"),
        ({"max_tokens": 0}, "Maximum of scored tokens must be at least 1, not 0"),
        ({"context": 1}, "Context must be at least 2 tokens, not 1"),
        ({"text": " \n<|endoftext|> "}, "Text must hold at least one token to score, not none"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        evaluate(Recorder(), Letters(), **{"text": "abc", **options})


def test_tokenizer_without_bos():
    tokenizer = Letters()
    tokenizer.bos_id = None
    with pytest.raises(UsageError, match=r"^Tokenizer must have a BOS token to score text, not none$"):
        evaluate(Recorder(), tokenizer, "abc")


def test_cross_entropy_of_large_logits():
    logits = np.array([[1000.0, 1000.0, -1000.0], [0.0, 5.0, 0.0]], np.float32)
    expected = math.log(2) + math.log(2 + math.exp(5)) - 5
    assert cross_entropy(logits, [1, 1]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.needs_data
@pytest.mark.parametrize("tokens, perplexity", [(4000, 3.786), pytest.param(20_000, 3.649, marks=pytest.mark.slow)])
def test_yardstick(data_dir, tokens, perplexity):
    model = importers.load(data_dir / "stories260K")
    text = (data_dir / "text" / "tinystories_train_2MiB.txt").read_text(encoding="utf-8")
    result = evaluate(FloatGraph(model.graph), tokenizer_of(model), text, max_tokens=tokens, context=512)
    assert round(result.perplexity, 3) == perplexity
    assert result.tokens == tokens
