# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, with the checkpoint's own ``tokenizer.json``.

The ``tokenizers`` library does the work. This module adds the rule for the beginning-of-sequence token and decoding of
a growing sequence, which is not simply decoding token by token: a character may span several tokens, and the space in
front of a word belongs to it only when something comes before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType

from tokenizers import Tokenizer

from catenary.isa.errors import CatenaryError, CheckpointError, UsageError
from catenary.isa.program import Program
from catenary.runtime.engine import FloatModel

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextTokenizer:
    """A checkpoint's tokenizer.

    The beginning-of-sequence (BOS) token is put in front of a text when ``add_bos_token`` of the tokenizer's
    configuration is true, or, where that is absent or null, when the post-processor of ``tokenizer.json`` does it. A
    text that already begins with the token does not get a second one.

    Attributes:
        bos_id: id of the BOS token, ``None`` if there is none.
        adds_bos: whether :meth:`encode` puts the BOS token in front.
    """

    def __init__(self, tokenizer_json: str, config: Mapping[str, object] | None = None) -> None:
        """Build the tokenizer.

        Args:
            tokenizer_json: text of ``tokenizer.json``.
            config: ``add_bos_token`` (bool) and ``bos_id`` (int), each of which may be absent or ``None``.

        Raises:
            CheckpointError: the tokenizer is damaged, or is to add a BOS token that nobody names.
        """
        with _Refused("Tokenizer must be a sound tokenizer.json", CheckpointError):
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = config or {}
        added = self._leading_special()
        bos_id, wish = config.get("bos_id"), config.get("add_bos_token")
        if bos_id is not None and type(bos_id) is not int:
            raise CheckpointError(f"bos_id of the tokenizer must be an integer or null, not {bos_id!r}")
        if wish is not None and type(wish) is not bool:
            raise CheckpointError(f"add_bos_token of the tokenizer must be true, false or null, not {wish!r}")
        self.bos_id: int | None = added if bos_id is None else bos_id
        self.adds_bos: bool = (added is not None and added == self.bos_id) if wish is None else wish
        if self.adds_bos and self.bos_id is None:
            raise CheckpointError("Tokenizer must have a BOS token when add_bos_token is true, not none")
        found = (self._tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        special = (token for token, added in self._tokenizer.get_added_tokens_decoder().items() if added.special)
        self._unsettled = frozenset([*(token for token in found if token is not None), *special])

    def _leading_special(self) -> int | None:
        """The token that the post-processor puts in front of a text, if it does."""
        plain, full = (self._tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
        return full[0] if len(full) > len(plain) and full[:1] != plain[:1] else None

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Token ids of ``text``; of the tokens that a post-processor would add, only BOS, and only with ``bos``.

        Raises:
            UsageError: ``text`` is not valid Unicode, or the tokenizer cannot encode it.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            place = f"{text[error.start]!r} at character {error.start}"
            raise UsageError(f"Text must be valid Unicode, not with {place}") from error
        with _Refused("Text must be what the tokenizer knows", UsageError):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if bos and self.adds_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, without special tokens; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def stream(self, context: Sequence[int] = ()) -> TextStream:
        """A decoder for the tokens that follow ``context`` (a prompt)."""
        return TextStream(self, context)

    def may_change(self, text: str, last: int) -> bool:
        """Whether the end of ``text``, whose last token is ``last``, may look different once more tokens follow.

        A replacement character may turn into a letter. A byte token may turn a whole run of them into replacement
        characters, since the byte-fallback decoder accepts or rejects runs; special tokens do not end a run.
        """
        return text.endswith(_REPLACEMENT) or last in self._unsettled


class TextStream:
    """Decodes a growing sequence; the pieces together are the text by which the sequence continues its context.

    Only the tokens since the last but one piece are decoded again, so the cost of a token does not grow with the
    length of the sequence. The first of them give the decoder the context that settles leading spaces.
    """

    def __init__(self, tokenizer: TextTokenizer, context: Sequence[int] = ()) -> None:
        """Begin after ``context``, whose own text is not part of the pieces."""
        self._tokenizer = tokenizer
        self._window = list(context)
        self._told = len(self._window)
        self._known = tokenizer.decode(self._window)

    def push(self, token: int) -> str:
        """The text that is certain now that ``token`` follows; may be empty."""
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        if text == self._known or self._tokenizer.may_change(text, token):
            return ""
        return self._tell(text)

    def finish(self) -> str:
        """The rest of the text, once no more tokens follow."""
        return self._tell(self._tokenizer.decode(self._window))

    def _tell(self, text: str) -> str:
        # Not simply what follows the known text: a context that ends inside a character ends with U+FFFD.
        settled = next((at for at, (old, new) in enumerate(zip(self._known, text, strict=False)) if old != new), None)
        piece = text[min(len(self._known), len(text)) if settled is None else settled :]
        del self._window[: self._told]
        self._told = len(self._window)
        self._known = self._tokenizer.decode(self._window)
        return piece

    def text(self, ids: Iterable[int]) -> str:
        """All pieces of ``ids`` and the rest, joined."""
        return "".join([*(self.push(token) for token in ids), self.finish()])


def tokenizer_of(source: Program | FloatModel) -> TextTokenizer | None:
    """The tokenizer of a program or an imported model; ``None`` if it carries none.

    Raises:
        CheckpointError: it carries a damaged one.
    """
    if source.tokenizer_json is None:
        return None
    return TextTokenizer(source.tokenizer_json, source.tokenizer_config)


class _Refused:
    """Turns whatever the tokenizers library raises (plain ``Exception``, mostly) into an error of ours."""

    def __init__(self, rule: str, error: type[CatenaryError]) -> None:
        self._rule = rule
        self._error = error

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            raise self._error(f"{self._rule}, not one with the fault: {' '.join(str(error).split())}") from error
