# SPDX-License-Identifier: Apache-2.0
"""The tokenizer's files: vocabulary checked against the model's, special ids gathered in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from catenary.compiler.importers.fields import parse_object, read_bytes
from catenary.isa.errors import CheckpointError

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class TokenizerFiles:
    """What a checkpoint says about its tokens.

    Attributes:
        json: text of ``tokenizer.json``, or ``None``.
        add_bos: whether prompts get the BOS token in front; ``None`` leaves it to the tokenizer's post-processor.
        bos_id, eos_ids: special ids; generation stops at any of ``eos_ids``.
    """

    json: str | None
    add_bos: bool | None
    bos_id: int | None
    eos_ids: tuple[int, ...]

    def config(self) -> dict[str, object]:
        """The part beside the vocabulary, as JSON values."""
        return {"add_bos_token": self.add_bos, "bos_id": self.bos_id, "eos_ids": list(self.eos_ids)}


def read_tokenizer(directory: Path | None, config: Mapping[str, object], vocab: int) -> TokenizerFiles:
    """The tokenizer of a Hugging Face ``directory`` whose ``config.json`` holds ``config`` and ``vocab`` ids.

    Ids come from ``generation_config.json``, else from ``config.json``, else from the tokens that
    ``tokenizer_config.json`` names. Without a directory there is no tokenizer, only ids.

    Raises:
        CheckpointError: a damaged file, an id or a vocabulary beyond ``vocab``.
    """
    raw = _optional(directory, TOKENIZER)
    tokenizer = {} if raw is None else parse_object(raw, TOKENIZER)
    settings, generation = _settings(directory, TOKENIZER_CONFIG), _settings(directory, GENERATION_CONFIG)
    sources = ((GENERATION_CONFIG, generation), ("config.json", config))
    ids = {} if raw is None else _token_ids(tokenizer)
    if ids and max(ids.values()) >= vocab:
        token = max(ids, key=lambda name: ids[name])
        raise CheckpointError(f"Ids of {TOKENIZER} must be below vocab_size {vocab}, not {ids[token]} ({token!r})")
    bos = _special("bos", sources, settings, ids, vocab)
    if len(bos) > 1:
        raise CheckpointError(f"bos_token_id must be one id, not {list(bos)}")
    add_bos = settings.get("add_bos_token")
    if add_bos is not None and not isinstance(add_bos, bool):
        raise CheckpointError(f"add_bos_token of {TOKENIZER_CONFIG} must be true or false, not {add_bos!r}")
    eos = _special("eos", sources, settings, ids, vocab)
    return TokenizerFiles(None if raw is None else raw.decode("utf-8"), add_bos, bos[0] if bos else None, eos)


def _optional(directory: Path | None, name: str) -> bytes | None:
    return read_bytes(directory / name) if directory is not None and (directory / name).exists() else None


def _settings(directory: Path | None, name: str) -> dict[str, object]:
    raw = _optional(directory, name)
    return {} if raw is None else parse_object(raw, name)


def _token_ids(tokenizer: Mapping[str, object]) -> dict[str, int]:
    """Id of every token of a parsed ``tokenizer.json``; a Unigram vocabulary is a list, every other a mapping."""
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):
        pieces = (item[0] if isinstance(item, list) and item else item for item in vocab)
        ids: dict[str, object] = {str(piece): index for index, piece in enumerate(pieces)}
    elif isinstance(vocab, dict):
        ids = dict(vocab)
    else:
        raise CheckpointError(f"model of {TOKENIZER} must hold a vocabulary, not {type(vocab).__name__}")
    added = tokenizer.get("added_tokens")
    for item in added if isinstance(added, list) else []:
        if isinstance(item, dict) and isinstance(item.get("content"), str):
            ids[item["content"]] = item.get("id")
    checked: dict[str, int] = {}
    for token, value in ids.items():
        if type(value) is not int or value < 0:
            raise CheckpointError(f"Id of token {token!r} in {TOKENIZER} must be a natural number, not {value!r}")
        checked[token] = value
    return checked


def _special(
    kind: str,
    sources: tuple[tuple[str, Mapping[str, object]], ...],
    settings: Mapping[str, object],
    ids: Mapping[str, int],
    vocab: int,
) -> tuple[int, ...]:
    for where, values in sources:
        value = values.get(f"{kind}_token_id")
        if value is None:
            continue
        found = value if isinstance(value, list) else [value]
        for item in found:
            if type(item) is not int or not 0 <= item < vocab:
                wanted = f"an integer from 0 to {vocab - 1}"
                raise CheckpointError(f"{kind}_token_id of {where} must be {wanted}, not {item!r}")
        return tuple(found)
    token = settings.get(f"{kind}_token")
    if isinstance(token, dict):  # an AddedToken written out
        token = token.get("content")
    return (ids[token],) if isinstance(token, str) and token in ids else ()
