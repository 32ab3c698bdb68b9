# SPDX-License-Identifier: Apache-2.0
"""Programs that break a rule, each with the error that hardware must report: one for every cause but a bus error.

The static check refuses most of them, and the simulator all. Hardware must find them too, because it sees no program
file, and must be sound again after a soft reset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from catenary.isa.assembler import assemble
from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import encode
from catenary.isa.fields import Operand
from catenary.isa.instructions import Apply, End, Nop
from catenary.isa.opcodes import WORD_BYTES, ApplyFunction, Unit
from catenary.isa.outliers import Outliers
from catenary.isa.registers import ErrorCause
from catenary.isa.stream import pack
from catenary.isa.stream_layout import HEADER_BYTES, HEADER_FIELDS, OUTLIER_FIELDS, BlockLayout
from catenary.isa.tensors import BLOCK
from tests.programs.cases import Case
from tests.weights import random_weights

COLUMNS, ROWS, KEPT = 20, 4, 4
"""Of the row block in memory, which begins at line 0: a block even where there is one chain of 16."""

_WATCHDOG = 3000
_ILLEGAL, _RANGE, _FORMAT = ErrorCause.ILLEGAL_INSTRUCTION, ErrorCause.ADDRESS_RANGE, ErrorCause.STREAM_FORMAT


def _case(config: AcceleratorConfig, code: bytes | str, cause: ErrorCause, fault: int | None, **more: int) -> Case:
    code = assemble(code) if isinstance(code, str) else code
    line = config.lines(len(_image(config, _block(config))))
    memory = _image(config, _block(config)).ljust((line + config.lines(len(code))) * config.line_bytes, b"\0")
    return Case("program with an error", config, code, line, memory, cause=cause, fault=fault, **more)


def _image(config: AcceleratorConfig, block: bytes) -> bytes:
    """A row block and zeros."""
    return block.ljust(config.lines(len(block) + 400) * config.line_bytes, b"\0")


def _block(config: AcceleratorConfig, bits: int = 8, outliers: int = 0) -> bytes:
    """A row block, by default of 8-bit weights."""
    tensor = random_weights(np.random.default_rng(5), ROWS, COLUMNS, bits, kept=KEPT)
    if outliers:
        places = (np.arange(outliers) % ROWS, np.zeros(outliers, int), np.ones(outliers, int))
        tensor = replace(tensor, outliers=Outliers.of_entries(*places))
    return pack(tensor, None, config).tobytes()


def illegal_word(config: AcceleratorConfig, word: int) -> Case:
    """A word that means nothing, behind one that does."""
    code = encode(Nop(target=Unit.LOAD)) + word.to_bytes(WORD_BYTES, "little") + encode(End())
    return _case(config, code, _ILLEGAL, 1)


def _set(insn: Apply | Nop, name: str, value: int) -> int:
    """The word of ``insn`` with the bits of one field replaced."""
    [part] = [part for part in insn.body if part.name == name]
    word = int.from_bytes(encode(insn), "little")
    return word & ~(((1 << part.width) - 1) << part.offset) | value << part.offset


def _illegal_words() -> dict[str, int]:
    one = Operand(0, 1)
    insn = Apply(
        function=ApplyFunction.RELU, dst=Operand(), dst_stride=0, x=Operand(), x_stride=0, rows=one, elements=one
    )
    return {
        "zero word": 0,
        "free opcode": 0x2F,
        "enumeration": _set(insn, "function", 15),
        "queue of no unit": _set(Nop(target=Unit.LOAD), "target", 7),
        "reserved bit": int.from_bytes(encode(insn), "little") | 1 << 255,
        "NaN": _set(insn, "parameter", 0x7F800001),
    }


def text_case(config: AcceleratorConfig, text: str, cause: ErrorCause, fault: int | None, **more: int) -> Case:
    """A program in text form; numbers that depend on the accelerator are names in braces."""
    sizes = {
        "lines": config.memory_lines,
        "last_line": config.memory_lines - 1,
        "v": config.vector_words,
        "last_v": config.vector_words - 8,
        "a": config.act_bytes // BLOCK,
        "last_a": config.act_bytes // BLOCK - 1,
        "d": config.desc_words,
        "lines_of_64": config.lines(64),
        "block": config.lines(len(_block(config))),
        "block_4": config.lines(len(_block(config, 4))),
        "outlier_block": config.lines(len(_block(config, outliers=1))),
    }
    watchdog = _WATCHDOG if cause is ErrorCause.WATCHDOG else None
    return replace(_case(config, text.format(**sizes), cause, fault, **more), watchdog=watchdog)


def damaged_header(config: AcceleratorConfig, field: str, value: int, bits: int = 8) -> Case:
    """A row block one of whose header fields has another value."""
    [part] = [part for part in HEADER_FIELDS if part.name == field]
    block = bytearray(_block(config, bits))
    header = int.from_bytes(block[:16], "little")
    header = header & ~(((1 << part.width) - 1) << part.offset) | value << part.offset
    block[:16] = header.to_bytes(16, "little")
    return _refused_block(config, bytes(block), "{block}" if bits == 8 else "{block_4}")


def damaged_outlier(config: AcceleratorConfig, field: str, value: int) -> Case:
    """A row block whose only outlier has another value in one field."""
    [part] = [part for part in OUTLIER_FIELDS if part.name == field]
    block = bytearray(_block(config, outliers=1))
    layout = BlockLayout.decode(bytes(block[:HEADER_BYTES]), config.stream_atom)
    at = slice(layout.outliers.offset, layout.outliers.offset + layout.outliers.used)
    word = int.from_bytes(block[at], "little") & ~(((1 << part.width) - 1) << part.offset) | value << part.offset
    block[at] = word.to_bytes(layout.outliers.used, "little")
    return _refused_block(config, bytes(block), "{outlier_block}")


def _refused_block(config: AcceleratorConfig, block: bytes, lines: str) -> Case:
    code = _load_v() + _load_a("matrix") + _stream(lines) + _multiply() + "end"
    case = text_case(config, code, _FORMAT, 3)
    return replace(case, image=block + case.image[len(block) :])


def _load_v(release: str = "none", memory: str = "0", address: str = "0") -> str:
    fields = f"address={address} memory={memory} rows=1 elements=16 row_lines={{lines_of_64}} release={release}"
    return f"ld buffer=v format=f32 {fields}\n"


def _load_a(release: str = "none", memory: str = "0", address: str = "0") -> str:
    fields = f"address={address} memory={memory} rows=1 elements=64 row_lines={{lines_of_64}} release={release}"
    return f"ld buffer=a format=i8 {fields}\n"


def _stream(rows: str = "{block}", memory: str = "0") -> str:
    return f"ld buffer=w format=lines memory={memory} rows={rows}\n"


def _multiply(depth: int = COLUMNS, rows: int = ROWS) -> str:
    return f"mv act=0 act_stride=2 tokens=1 depth={depth} rows={rows} out=32 out_stride=32 scales=0 wait=load\n"


def _relu(dst: str, x: str) -> str:
    return f"apply function=relu dst={dst} dst_stride=0 x={x} x_stride=0 rows=1 elements=16 wait=load\n"


_HUGE = "li rd=r9 imm=549755813888\n"
_MULTIPLIED = _load_v() + _load_a("matrix") + _stream()
_LEAK, _TOKENS, _WAITS = ErrorCause.STREAM_LEAK, ErrorCause.TOKEN_LEAK, ErrorCause.WATCHDOG

_TEXTS: Mapping[str, tuple[str, ErrorCause, int | None]] = {
    "loops five deep": (
        "".join(f"loop count=2 length={5 - depth}\n" for depth in range(5)) + "nop target=load\n", _ILLEGAL, 4,
    ),
    "load behind memory": (_load_v(memory="{lines}"), _RANGE, 0),
    "load over the end": (_load_a(memory="{last_line}"), _RANGE, 0),
    "load far away": (_HUGE + _load_v(memory="r9"), _RANGE, 1),
    "stream behind memory": (_stream(rows="1", memory="{lines}"), _RANGE, 0),
    "stream over the end": (_stream(rows="2", memory="{last_line}"), _RANGE, 0),
    "load behind V": (_load_v(address="{last_v}"), _RANGE, 0),
    "load far behind V": (_HUGE + _load_v(address="r9"), _RANGE, 1),
    "load behind A": (_load_a(address="{last_a}"), _RANGE, 0),
    "load behind D": ("ld buffer=d format=u64 address={d} memory=0 rows=1 elements=1\n", _RANGE, 0),
    "table behind D": ("lds rd=r9 address={d}\n", _RANGE, 0),
    "store behind memory": (
        _load_v("store") + "st buffer=v format=f32 address=0 memory={lines} rows=1 elements=1 wait=load\n", _RANGE, 1,
    ),
    "store behind V": (
        "st buffer=v format=f32 address={last_v} memory=0 rows=1 elements=16 row_lines={lines_of_64}\n", _RANGE, 0,
    ),
    "read behind V": (_load_v("vector") + _relu("0", "{last_v}"), _RANGE, 1),
    "write behind V": (_load_v("vector") + _relu("{last_v}", "0"), _RANGE, 1),
    "codes behind A": (
        _load_v("vector") + "quant dst={last_a} dst_stride=2 x=0 x_stride=0 rows=1 parts=1 elements=17 scales=64 "
        "scale_stride=1 scale_step=1 wait=load\n", _RANGE, 1,
    ),
    "keys behind A": (
        _load_v() + _load_a("matrix") + "score source=buffer act=0 act_stride=0 tokens=1 depth=16 rows=2 out=32 "
        "out_stride=2 scales=0 row_scales=0 rows_at={last_a} rows_stride=1 wait=load\n", _RANGE, 2,
    ),
    "other columns": (_MULTIPLIED + _multiply(depth=COLUMNS + BLOCK), _FORMAT, 3),
    "fewer rows": (_MULTIPLIED + _multiply(rows=ROWS - 1), _FORMAT, 3),
    "stream left": (_stream(rows="1"), _LEAK, 1),
    "token left": ("nop target=load release=vector\n", _TOKENS, 1),
    "token to control left": ("nop target=store release=control\n", _TOKENS, 1),
    "too many tokens": ("loop count=256 length=1\nnop target=load release=vector\n", _TOKENS, 1),
    "wait for ever": ("nop target=vector wait=load\n", _WAITS, None),
    "wait for each other": (
        "nop target=vector wait=matrix release=matrix\nnop target=matrix wait=vector release=vector\n", _WAITS, None,
    ),
    "stream that is empty": (_load_v() + _load_a("matrix") + _multiply(), _WAITS, None),
}  # fmt: skip
"""Code without its END, cause, and the instruction at fault."""

_HEADERS = {
    "magic": 0xC6, "version": 2, "index": 2, "kept": 5, "table": 1, "reserved_a": 1, "rows": 60000, "groups": 2,
    "group_blocks": 0, "blocks": 3, "checksum_row": 1, "reserved_b": 1,
}  # fmt: skip
"""Wrong values of header fields."""

ERRORS: Mapping[str, Callable[[AcceleratorConfig], Case]] = {
    **{name: partial(illegal_word, word=word) for name, word in _illegal_words().items()},
    **{name: partial(text_case, text=t + "end", cause=cause, fault=at) for name, (t, cause, at) in _TEXTS.items()},
    "no END": partial(text_case, text="nop target=load\nnop target=vector", cause=ErrorCause.CODE_RANGE, fault=None),
    "entry behind the code": partial(
        text_case, text="nop target=load\nend", cause=ErrorCause.CODE_RANGE, fault=None, entry=2
    ),
    **{f"header: {field}": partial(damaged_header, field=field, value=value) for field, value in _HEADERS.items()},
    "header: table of 4 bits": partial(damaged_header, field="table", value=2, bits=4),
    "outlier: lane": partial(damaged_outlier, field="lane", value=ROWS * KEPT),
    "outlier: block": partial(damaged_outlier, field="advance", value=-(-COLUMNS // BLOCK)),
    "no rows": partial(damaged_header, field="rows", value=0),
}
"""Makers of cases by what is wrong."""
