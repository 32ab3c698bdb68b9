# SPDX-License-Identifier: Apache-2.0
"""Encoding with the BOS rule, and decoding piece by piece, for the three kinds of tokenizer that checkpoints have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from catenary.isa.errors import CheckpointError, UsageError
from catenary.runtime.tokenizer import TextTokenizer

CORPUS = [
    "Once upon a time there was a little girl",
    "naïve café — 日本語 🙂 Ünïcödé",
    "  two  spaces\n\tand lines\n",
] * 8
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def llama_like() -> str:
    """SentencePiece style: U+2581 for spaces, byte fallback, one leading space dropped (as Llama's and Mistral's)."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS[:1], trainer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    spec = json.loads(tokenizer.to_str())
    vocab: dict[str, int] = spec["model"]["vocab"]
    for token in BYTES:
        vocab.setdefault(token, len(vocab))
    return json.dumps(spec)


def gpt_like() -> str:
    """Byte-level BPE (as GPT-2's, Llama 3's and Qwen's)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


KINDS = {"llama": llama_like, "gpt": gpt_like}
TEXTS = {
    "words": "Once upon a time",
    "accents": "café naïve",
    "wide": "日本語と🙂🙂🏽 mixed",
    "leading": "  two leading spaces",
    "lines": "a\n\n b\t c \n",
    "replacement": "a\N{REPLACEMENT CHARACTER}b",
    "letter": "é",
}


@pytest.fixture(scope="module", params=KINDS)
def spec(request: pytest.FixtureRequest) -> str:
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def tokenizer(spec: str) -> TextTokenizer:
    return TextTokenizer(spec, {"add_bos_token": True, "bos_id": 1})


def with_template(spec: str, single: list[Any]) -> str:
    values = json.loads(spec)
    known = {
        "<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
        "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]},
    }
    values["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": known}
    values["post_processor"]["pair"] = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return json.dumps(values)


BOS = {"SpecialToken": {"id": "<s>", "type_id": 0}}
EOS = {"SpecialToken": {"id": "</s>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def test_bos_where_the_configuration_says_so(spec: str) -> None:
    plain = TextTokenizer(spec, {"add_bos_token": False, "bos_id": 1}).encode("Once")
    assert TextTokenizer(spec, {"add_bos_token": True, "bos_id": 1}).encode("Once") == [1, *plain]
    assert TextTokenizer(spec, {"bos_id": 1}).encode("Once") == plain
    assert TextTokenizer(spec).encode("Once") == plain


def test_bos_where_the_post_processor_says_so(spec: str) -> None:
    spec = with_template(spec, [BOS, TEXT])
    plain = TextTokenizer(spec, {"add_bos_token": False, "bos_id": 1}).encode("Once")
    assert 1 not in plain
    for config in ({}, {"bos_id": 1}, {"add_bos_token": None, "bos_id": None}):
        tokenizer = TextTokenizer(spec, config)
        assert (tokenizer.bos_id, tokenizer.encode("Once")) == (1, [1, *plain])


def test_bos_is_never_there_twice(spec: str) -> None:
    for text in (spec, with_template(spec, [BOS, TEXT])):
        tokenizer = TextTokenizer(text, {"add_bos_token": True, "bos_id": 1})
        assert tokenizer.encode("<s>Once").count(1) == 1


def test_nothing_else_of_the_post_processor_reaches_a_prompt(spec: str) -> None:
    ids = TextTokenizer(with_template(spec, [BOS, TEXT, EOS])).encode("Once")
    assert (ids[0], 2 in ids) == (1, False)


def test_bos_can_be_left_out_of_a_call(tokenizer: TextTokenizer) -> None:
    assert tokenizer.encode("Once", bos=False) == tokenizer.encode("Once")[1:]
    assert tokenizer.encode("") == [1]
    assert tokenizer.encode("", bos=False) == []


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_text_survives_encoding_and_streaming(tokenizer: TextTokenizer, text: str) -> None:
    ids = tokenizer.encode(text, bos=False)
    assert tokenizer.stream([1]).text(ids) == tokenizer.decode(ids)
    assert tokenizer.decode(ids).lstrip() == text.lstrip()  # Llama's decoder drops a leading space


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_streamed_text_continues_the_prompt(tokenizer: TextTokenizer, text: str) -> None:
    prompt = tokenizer.encode("Once upon")
    ids = tokenizer.encode(text, bos=False)
    assert tokenizer.decode(prompt) + tokenizer.stream(prompt).text(ids) == tokenizer.decode(prompt + ids)


def test_a_letter_of_many_bytes_appears_whole() -> None:
    tokenizer = TextTokenizer(gpt_like())
    stream = tokenizer.stream()
    ids = tokenizer.encode("𐍈")  # not in the corpus: one token a byte
    pieces = [stream.push(token) for token in ids]
    assert len(ids) > 1
    assert pieces == [""] * (len(ids) - 1) + ["𐍈"]
    assert stream.finish() == ""


def test_words_appear_at_once_with_their_spaces() -> None:
    tokenizer = TextTokenizer(llama_like())
    stream = tokenizer.stream(tokenizer.encode("Once"))
    pieces = [stream.push(token) for token in tokenizer.encode("upon a time", bos=False)]
    assert "".join(pieces) == " upon a time"
    assert all(pieces)


def test_an_unfinished_letter_comes_out_at_the_end() -> None:
    tokenizer = TextTokenizer(gpt_like())
    stream = tokenizer.stream()
    assert [stream.push(token) for token in tokenizer.encode("𐍈")[:-1]] == [""] * 3
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("split", range(1, 4))
def test_a_letter_that_the_prompt_began_is_completed(split: int) -> None:
    tokenizer = TextTokenizer(gpt_like())
    ids = tokenizer.encode("𐍈")
    assert tokenizer.stream(tokenizer.encode("a ") + ids[:split]).text(ids[split:]) == "𐍈"


@pytest.mark.parametrize("seed", range(4))
def test_any_tokens_stream_to_the_text_of_the_whole(spec: str, tokenizer: TextTokenizer, seed: int) -> None:
    """Bytes that are no UTF-8, special tokens in the middle, spaces at the edges: all of it."""
    rng = np.random.default_rng(seed)
    vocab = Tokenizer.from_str(spec).get_vocab_size()
    prompt = tokenizer.encode("Once upon")
    for _ in range(150):
        ids = rng.integers(0, vocab, rng.integers(1, 25)).tolist()
        got = tokenizer.decode(prompt) + tokenizer.stream(prompt).text(ids)
        assert got == tokenizer.decode(prompt + ids), f"seed {seed}, ids {ids}"


def test_unknown_ids_have_no_text(tokenizer: TextTokenizer) -> None:
    """A model's vocabulary may be padded beyond its tokenizer's."""
    ids = tokenizer.encode("Once")
    assert tokenizer.stream().text([*ids, 100_000]) == "Once"


def test_text_that_is_no_unicode_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(UsageError, match=r"^Text must be valid Unicode, not with '\\udcff' at character 1$"):
        tokenizer.encode("a\udcff")


DAMAGED = {
    "empty": "",
    "garbage": "garbage",
    "no-model": "{}",
    "unknown-model": '{"version": "1.0", "model": {"type": "Magic"}}',
    "list": "[]",
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"^Tokenizer must be a sound tokenizer\.json, not one with [^\n]*$"):
        TextTokenizer(text)


@pytest.mark.parametrize("cut", [0.25, 0.5, 0.75, 0.99])
def test_truncated_files_are_refused(spec: str, cut: float) -> None:
    with pytest.raises(CheckpointError, match=r"^Tokenizer must be a sound"):
        TextTokenizer(spec[: int(len(spec) * cut)])


BAD_CONFIGS = {
    "add": ({"add_bos_token": "yes"}, "add_bos_token of the tokenizer must be true, false or null, not 'yes'"),
    "id": ({"bos_id": "<s>"}, "bos_id of the tokenizer must be an integer or null, not '<s>'"),
    "none": ({"add_bos_token": True}, "Tokenizer must have a BOS token when add_bos_token is true, not none"),
}


@pytest.mark.parametrize("config, message", BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_bad_configurations_are_refused(spec: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^{message}$"):
        TextTokenizer(spec, config)


def test_golden_ids_and_text(data_dir: Path) -> None:
    model = data_dir / "stories260K"
    golden = json.loads((model / "golden.json").read_text())
    tokenizer = TextTokenizer((model / "tokenizer.json").read_text(), {"add_bos_token": True, "bos_id": 1})
    prompt, ids = golden["prompt_ids"], golden["greedy_ids_fp32"][len(golden["prompt_ids"]) :]
    text = tokenizer.stream(prompt).text(ids)
    assert golden["greedy_text_fp32"].startswith(text)
    assert tokenizer.encode("") == prompt
