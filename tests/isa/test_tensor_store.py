# SPDX-License-Identifier: Apache-2.0
"""References to tensors in the image: reading them, and refusing those that make no sense."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from catenary.isa import stream
from catenary.isa.errors import ProgramError
from catenary.isa.memory import row_layout
from catenary.isa.tensor_store import TensorRef, TensorStore
from catenary.isa.tensors import FloatTensor, QuantTensor
from tests.isa.small_programs import SMALL
from tests.weights import random_weights

LINE = SMALL.line_bytes
RNG = np.random.default_rng(5)
WEIGHT = random_weights(RNG, 100, 40, bits=4, group=32)
OTHER = random_weights(RNG, 7, 16, bits=8)
BIAS = RNG.normal(size=100).astype(np.float32)
TABLE = RNG.normal(size=(5, 3)).astype(np.float16)
NARROW = RNG.normal(size=(9, 2)).astype(np.float16)
VECTOR = RNG.normal(size=6).astype(np.float32)


def build() -> tuple[NDArray[np.uint8], dict[str, TensorRef]]:
    """An image, and where in it the above lie."""
    parts: list[NDArray[np.uint8]] = []
    refs: dict[str, TensorRef] = {}

    def append(data: NDArray[np.uint8]) -> int:
        line = sum(len(part) for part in parts)
        padded = np.zeros((SMALL.lines(data.size), LINE), np.uint8)
        padded.reshape(-1)[: data.size] = data.reshape(-1)
        parts.append(padded)
        return line

    for name, values in (("table", TABLE), ("narrow", NARROW)):
        raw = values.view(np.uint8).reshape(len(values), -1)
        layout = row_layout(SMALL, raw.shape[1])
        refs[name] = TensorRef("f16", values.shape, append(layout.scatter(raw, LINE)), 0, 0)
    first, second = stream.pack(WEIGHT, BIAS, SMALL), stream.pack(OTHER, None, SMALL)
    line = append(np.concatenate([first, second]))
    refs["weight"] = TensorRef("weight", WEIGHT.shape, line, 0, first.size)
    refs["bias"] = TensorRef("bias", WEIGHT.shape, line, 0, first.size)
    refs["other"] = TensorRef("weight", OTHER.shape, line, first.size, second.size)
    line = append(np.concatenate([np.zeros(2, np.float32), VECTOR]).view(np.uint8))
    refs["vector"] = TensorRef("f32", VECTOR.shape, line, 8, 0)
    bits = (VECTOR.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    refs["bf16"] = TensorRef("bf16", VECTOR.shape, append(bits.view(np.uint8)), 0, 0)
    return np.concatenate(parts), refs


IMAGE, REFS = build()


def store(**changed: TensorRef) -> TensorStore:
    return TensorStore(IMAGE, {**REFS, **changed}, SMALL)


def test_every_kind_is_read() -> None:
    tensors = store()
    tensors.check()
    assert list(tensors) == list(REFS)
    assert len(tensors) == len(REFS)
    for name, values in (("table", TABLE), ("narrow", NARROW), ("vector", VECTOR), ("bias", BIAS)):
        found = tensors[name]
        assert isinstance(found, FloatTensor)
        assert (found.shape, found.data.dtype, found.data.tobytes()) == (values.shape, values.dtype, values.tobytes())
    assert tensors["bf16"].shape == VECTOR.shape
    for name, weight in (("weight", WEIGHT), ("other", OTHER)):
        found = tensors[name]
        assert isinstance(found, QuantTensor)
        assert (found.columns, found.bits, found.group) == (weight.columns, weight.bits, weight.group)
        for field in ("codes", "mask", "kept", "scales", "zeros", "channel_scales"):
            assert getattr(found, field).tobytes() == getattr(weight, field).tobytes(), field
        found.check(name)
    with pytest.raises(KeyError):
        tensors["nothing"]


def test_outlines_have_the_types_and_shapes_and_cost_nothing() -> None:
    tensors = store()
    for name, outline in tensors.outline().items():
        assert type(outline) is type(tensors[name])
        assert outline.shape == tensors[name].shape
        if isinstance(outline, FloatTensor):
            assert isinstance(tensors[name], FloatTensor)
            assert outline.data.strides == (0,) * outline.data.ndim
        else:
            assert outline.codes.strides == outline.mask.strides == (0, 0)


def test_references_are_json() -> None:
    for name, ref in REFS.items():
        assert TensorRef.from_json(name, ref.to_json()) == ref


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"more": 1}, "Keys of Reference of tensor 'x' must be [...], not with ['more'] missing or added"),
        ({"shape": 5}, "Reference of tensor 'x'.shape must be of type list, not 5"),
        ({"shape": [5, True]}, "Reference of tensor 'x'.shape[1] must be of type int, not True"),
        ({"shape": [[5]]}, "Reference of tensor 'x'.shape[0] must be of type int, not [5]"),
        ({"line": 1.0}, "Reference of tensor 'x'.line must be of type int, not 1.0"),
        ({"offset": 1 << 53}, f"Reference of tensor 'x'.offset must be below {1 << 53} in magnitude, not {1 << 53}"),
        ({"kind": ["f32"]}, "Reference of tensor 'x'.kind must be of type str, not ['f32']"),
        ({"nbytes": None}, "Reference of tensor 'x'.nbytes must be of type int, not None"),
    ],
)
def test_references_of_other_types_are_refused(changes: dict[str, Any], message: str) -> None:
    pattern = re.escape(message).replace(re.escape("[...]"), r"\[.*\]")
    with pytest.raises(ProgramError, match=f"^{pattern}$"):
        TensorRef.from_json("x", {**REFS["vector"].to_json(), **changes})
    with pytest.raises(ProgramError, match=r"^Reference of tensor 'x' must be a JSON object, not \[\]$"):
        TensorRef.from_json("x", [])


SIZE = IMAGE.size
LINES = len(IMAGE)
KINDS = "('weight', 'bias', 'f32', 'f16', 'bf16')"
VECTOR_LINE, STREAM_LINE, STREAM_BYTES = REFS["vector"].line, REFS["weight"].line, REFS["weight"].nbytes
UNSOUND: list[tuple[str, dict[str, Any], str]] = [
    ("vector", {"kind": "f64"}, f"Reference of {{}} must have a kind of {KINDS}, not 'f64'"),
    ("vector", {"shape": ()}, "Reference of {} must have a shape of rows and columns, not ()"),
    ("vector", {"shape": (0,)}, "Reference of {} must have a shape of rows and columns, not (0,)"),
    ("vector", {"shape": (1, 2, 3)}, "Reference of {} must have a shape of rows and columns, not (1, 2, 3)"),
    ("table", {"shape": (-5, -3)}, "Reference of {} must have a shape of rows and columns, not (-5, -3)"),
    ("weight", {"shape": (100,)}, "Reference of {} must have a shape of rows and columns, not (100,)"),
    ("vector", {"line": -1}, "Reference of {} must begin in the image, not at line -1 and byte 8"),
    ("vector", {"offset": -8}, f"Reference of {{}} must begin in the image, not at line {VECTOR_LINE} and byte -8"),
    ("table", {"offset": 2}, "Reference of {} must begin in the image, not at line 0 and byte 2"),
    ("vector", {"nbytes": 4}, "Reference of {} must have bytes exactly if it is to a stream, not 4"),
    ("weight", {"nbytes": 0}, "Reference of {} must have bytes exactly if it is to a stream, not 0"),
    ("weight", {"nbytes": -1}, "Reference of {} must have bytes exactly if it is to a stream, not -1"),
    ("vector", {"line": LINES}, f"{{}} must end within the {SIZE} bytes of the image, not at {SIZE + 32}"),
    ("vector", {"line": 1 << 52}, f"{{}} must end within the {SIZE} bytes of the image, not at {(1 << 55) + 32}"),
    ("table", {"shape": (1 << 40, 3)}, f"{{}} must end within the {SIZE} bytes of the image, not at {1 << 43}"),
    (
        "weight", {"nbytes": 1 << 50},
        f"{{}} must end within the {SIZE} bytes of the image, not at {STREAM_LINE * LINE + (1 << 50)}",
    ),
    (
        "weight", {"shape": (101, 40)},
        f"Stream of {{}} must have 101 rows in {STREAM_BYTES} bytes, not 100 in {STREAM_BYTES}",
    ),
    ("weight", {"shape": (100, 56)}, "Stream of {}: blocks of a row block must be 4 for 56 columns, not 3"),
    ("weight", {"offset": 8}, "Stream of {}: magic of a row block must be 0xc7, not "),
    ("other", {"kind": "bias"}, "Stream of {} must hold a bias, not none"),
]  # fmt: skip


@pytest.mark.parametrize("name, changes, message", UNSOUND)
def test_references_that_make_no_sense_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    tensors = store(**{name: replace(REFS[name], **changes)})
    text = message.format(f"tensor {name!r}")
    for read in (tensors.check, lambda: tensors[name]):
        with pytest.raises(ProgramError, match=f"^{re.escape(text[0].upper() + text[1:])}"):
            read()


def test_streams_that_are_cut_off_are_refused() -> None:
    for nbytes in range(1, REFS["weight"].nbytes, 7):
        tensors = store(weight=replace(REFS["weight"], nbytes=nbytes), bias=REFS["vector"])
        with pytest.raises(ProgramError, match=r"^Stream of tensor 'weight'"):
            tensors["weight"]


def test_a_stream_must_end_where_its_reference_says() -> None:
    """Zeros behind a stream are padding for a device, but no part of the tensor."""
    last = REFS["other"]
    tensors = store(other=replace(last, nbytes=last.nbytes + LINE - 1))
    zeros = IMAGE.reshape(-1)[last.line * LINE + last.offset + last.nbytes :][: LINE - 1]
    assert not zeros.any()
    for read in (tensors.check, lambda: tensors["other"]):
        with pytest.raises(ProgramError, match=f"must have 7 rows in {last.nbytes + LINE - 1} bytes, not 7 in "):
            read()


@pytest.mark.parametrize(
    "changes, pair",
    [
        ({"bf16": replace(REFS["bf16"], line=REFS["vector"].line)}, "'vector' and 'bf16'"),
        ({"bf16": replace(REFS["vector"], offset=12, shape=(5,))}, "'bf16' and 'vector'"),
        ({"bf16": REFS["vector"]}, "'vector' and 'bf16'"),
        ({"bf16": REFS["weight"]}, "'weight' and 'bias'"),
        ({"narrow": replace(REFS["narrow"], line=REFS["table"].line)}, "'table' and 'narrow'"),
        ({"vector": replace(REFS["vector"], line=REFS["weight"].line + 3)}, "'vector' and 'weight'"),
    ],
)
def test_tensors_that_overlap_are_refused(changes: dict[str, TensorRef], pair: str) -> None:
    with pytest.raises(ProgramError, match=f"^Tensors {pair} must lie apart in the image, not overlap$"):
        store(**changes).check()


def damaged(change: Callable[[NDArray[np.uint8]], None]) -> TensorStore:
    image = IMAGE.copy()
    change(image.reshape(-1))
    return TensorStore(image, REFS, SMALL)


def test_contents_of_a_stream_are_verified_when_they_are_read() -> None:
    """A weight beyond 127 passes the headers, as it must, and is refused by whoever decodes it."""
    last = REFS["other"]

    def change(data: NDArray[np.uint8]) -> None:
        data[last.line * LINE + last.offset + last.nbytes - 16 * 7 :][:1] = 0x80

    tensors = damaged(change)
    tensors.check()
    with pytest.raises(ProgramError, match=r"^Stream of tensor 'other': Weight of a row block must be at most 127"):
        tensors["other"]


def test_a_bias_that_is_not_finite_is_refused() -> None:
    start = REFS["weight"].line * LINE
    first = stream.read_block(IMAGE.reshape(-1)[start:], 0, WEIGHT.columns, SMALL)
    at = start + first.layout.bias.offset

    def change(data: NDArray[np.uint8]) -> None:
        data[at : at + 4] = np.array([np.nan], "<f4").view(np.uint8)

    tensors = damaged(change)
    message = "^Stream of tensor '(weight|bias)': Bias of a row block must be finite, not nan$"
    for read in (tensors.check, lambda: tensors["bias"]):
        with pytest.raises(ProgramError, match=message):
            read()
