# SPDX-License-Identifier: Apache-2.0
"""Texts and prompts from the command line."""

from __future__ import annotations

from pathlib import Path

from catenary.isa.errors import UsageError
from catenary.runtime.tokenizer import TextTokenizer


def read_text(option: str, path: Path) -> str:
    """The UTF-8 text in the file that ``option`` names.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode()  # as it is: read_text would turn \r\n into \n
    except OSError as error:
        raise UsageError(f"{option} must be a readable file, not {str(path)!r} ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{option} must be UTF-8 text, not {str(path)!r} (byte {error.start} is not)") from error


def parse_ids(text: str) -> list[int]:
    """Token ids from ``1,2,3``.

    Raises:
        UsageError: an item is not an integer.
    """
    ids = []
    for item in text.split(",") if text.strip() else []:
        try:
            ids.append(int(item))
        except ValueError:
            raise UsageError(f"--prompt-ids must be integers separated by commas, not {item.strip()!r}") from None
    return ids


def read_prompt(prompt: str | None, file: Path | None, ids: str | None, tokenizer: TextTokenizer | None) -> list[int]:
    """Token ids of the prompt: of a text with BOS as the tokenizer has it, given ids as they are.

    Raises:
        UsageError: not exactly one of the three is given, or a text without a tokenizer.
    """
    options = {"--prompt": prompt, "--prompt-file": file, "--prompt-ids": ids}
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        told = " and ".join(given) or "none"
        raise UsageError(f"Prompt must be given by one of --prompt, --prompt-file and --prompt-ids, not {told}")
    if ids is not None:
        return parse_ids(ids)
    if tokenizer is None:
        raise UsageError(f"Prompt of a model without a tokenizer must be given by --prompt-ids, not {given[0]}")
    text = prompt if file is None else read_text("--prompt-file", file)
    return tokenizer.encode(text or "")
