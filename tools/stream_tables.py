# SPDX-License-Identifier: Apache-2.0
"""Generate the tables of docs/weight-stream.md from the definition of the format.

    python -m tools.stream_tables          rewrite the page
    python -m tools.stream_tables --check  exit 1 where the page is not what it would be rewritten to

A table stands between ``<!-- stream:begin NAME -->`` and ``<!-- stream:end -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from catenary.isa.stream_layout import HEADER_FIELDS, OUTLIER_FIELDS, BlockLayout, StreamField
from catenary.isa.tensors import BLOCK

PAGE = Path(__file__).resolve().parent.parent / "docs" / "weight-stream.md"

_TABLE = re.compile(r"(?<=<!-- stream:begin )(?P<name>\w+) -->\n.*?(?=<!-- stream:end -->)", re.DOTALL)

_ROWS, _COLUMNS, _GROUP, _ATOM = 4096, 4096, 128, 64
_DSPS = 1024
_OUTLIER_EVERY = 1024


def header_table() -> str:
    """Every field of a row block's header."""
    return _fields(HEADER_FIELDS)


def outlier_table() -> str:
    """Every field of an entry of the outlier section."""
    return _fields(OUTLIER_FIELDS)


def _fields(fields: Sequence[StreamField]) -> str:
    lines = ["| bits | field | value |", "|---|---|---|"]
    for field in fields:
        last = field.offset + field.width - 1
        span = str(last) if field.width == 1 else f"{last}:{field.offset}"
        lines.append(f"| {span} | `{field.name}` | {field.meaning} |")
    return "\n".join(lines) + "\n"


def storage_table() -> str:
    """Bits per original weight of one large matrix, by what they hold."""
    lines: list[str] = []
    kinds = [(4, 16, True), *((bits, kept, False) for bits in (4, 8) for kept in (16, 8, 4, 2))]
    for bits, kept, corrected in kinds:
        rows = _DSPS // kept
        layout = BlockLayout(rows, kept, bits, _COLUMNS // BLOCK, _GROUP // BLOCK, False, _ATOM)
        if corrected:
            layout = replace(layout, has_table=True, outlier_words=rows * _COLUMNS // _OUTLIER_EVERY)
        blocks = _ROWS // rows
        sizes = {name: 8 * blocks * size / (_ROWS * _COLUMNS) for name, size in layout.breakdown().items()}
        del sizes["bias"]
        if not lines:
            lines = [f"| codes | sparsity | {' | '.join(sizes)} | **total** |", "|---" * (len(sizes) + 3) + "|"]
        cells = [f"{bits} bits" + ", table, outliers" * corrected, "dense" if kept == BLOCK else f"{kept}:{BLOCK}"]
        cells += [f"{value:.4f}" if value else "0" for value in sizes.values()]
        lines.append(f"| {' | '.join(cells)} | **{sum(sizes.values()):.3f}** |")
    return "\n".join(lines) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "header": header_table,
    "outlier": outlier_table,
    "storage": storage_table,
}


def rewritten(page: str) -> str:
    """``page`` with every table as the definition gives it."""
    return _TABLE.sub(lambda found: f"{found['name']} -->\n{TABLES[found['name']]()}", page)


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    page = PAGE.read_text(encoding="utf-8")
    new = rewritten(page)
    if "--check" in arguments:
        if page != new:
            print(f"{PAGE.name}: tables are not current; run python -m tools.stream_tables")
        return int(page != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
