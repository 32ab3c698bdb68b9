# SPDX-License-Identifier: Apache-2.0
"""Tensors of a program's graph, read from the memory image on demand."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catenary.isa import stream
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ProgramError
from catenary.isa.graph import Tensor
from catenary.isa.json_values import checked, shown
from catenary.isa.memory import row_layout
from catenary.isa.tensors import BLOCK, FloatFormat, FloatTensor, QuantTensor

WEIGHT, BIAS = "weight", "bias"
STREAMS = (WEIGHT, BIAS)
KINDS = (*STREAMS, *(fmt.value for fmt in FloatFormat))

_FIELDS = {"kind": str, "shape": list[int], "line": int, "offset": int, "nbytes": int}


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor lies in the image.

    Attributes:
        kind: ``f32``, ``f16``, ``bf16``: rows of floats; ``weight``: a weight stream; ``bias``: the bias in a stream.
        shape: shape of the tensor; for a bias, of the weight in the same stream.
        line: first line, counted from the start of the image.
        offset: bytes from there to a vector or a stream; matrices of floats start at the line, each row laid out as
            :func:`~catenary.isa.memory.row_layout` says.
        nbytes: bytes of a stream, else 0.
    """

    kind: str
    shape: tuple[int, ...]
    line: int
    offset: int
    nbytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, name: str, data: Any) -> TensorRef:  # noqa: ANN401 - JSON is dynamically typed
        """Inverse of :meth:`to_json`. Whether the reference makes sense is for :meth:`TensorStore.check` to say.

        Raises:
            ProgramError: a key is missing or unknown, or a value has the wrong type.
        """
        values = checked(data, f"Reference of tensor {shown(name)}", _FIELDS)
        return cls(**{**values, "shape": tuple(values["shape"])})


class TensorStore(Mapping[str, Tensor]):
    """The tensors of a graph by name; every access decodes from the image, so keep what you need.

    Args:
        image: uint8 [lines, line_bytes], contiguous.
        refs: where each tensor lies.
        config: the accelerator whose layout the image has.
    """

    def __init__(self, image: NDArray[np.uint8], refs: Mapping[str, TensorRef], config: AcceleratorConfig) -> None:
        self._image = image
        self._refs = refs
        self._config = config

    def __iter__(self) -> Iterator[str]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, name: str) -> Tensor:
        """Decode tensor ``name``; a weight stream is verified bit for bit while it is read.

        Raises:
            KeyError: no such tensor.
            ProgramError: the image does not hold what the reference says, or the stream breaks a rule of the format.
        """
        ref = self._refs[name]
        data = self._bytes(name)
        if ref.kind == BIAS:
            bias = self._outline(name).bias
            if bias is None:
                raise ProgramError(f"Stream of tensor {shown(name)} must hold a bias, not none")
            return FloatTensor(FloatFormat.F32, bias)
        if ref.kind == WEIGHT:
            with _stream_of(name):
                weight, _, consumed = stream.unpack(data, ref.shape[1], self._config)
            self._check_size(name, weight.rows, consumed)
            return weight
        fmt = FloatFormat(ref.kind)
        rows = data
        if len(ref.shape) == 2:
            layout = row_layout(self._config, ref.shape[1] * fmt.bytes)
            rows = layout.gather(data.reshape(-1, self._config.line_bytes), ref.shape[0])
        return FloatTensor(fmt, np.ascontiguousarray(rows).view(fmt.dtype))

    def check(self) -> None:
        """Verify that every tensor lies in the image and apart from the others, and walk all streams' headers.

        That takes no time worth mentioning; the contents of a weight stream are verified when it is first read.

        Raises:
            ProgramError: names the first tensor that breaks a rule.
        """
        taken: dict[tuple[int, int], list[str]] = {}
        for name, ref in self._refs.items():
            taken.setdefault(self._extent(name), []).append(name)
            if ref.kind in STREAMS:
                bias = self._outline(name).bias
                if bias is None and ref.kind == BIAS:
                    raise ProgramError(f"Stream of tensor {shown(name)} must hold a bias, not none")
        end, before = 0, ""
        for start, behind in sorted(taken):
            first, *others = taken[start, behind]
            together = sorted(self._refs[name].kind for name in (first, *others))
            if start < end or (others and together != sorted(STREAMS)):  # a weight and its bias share their stream
                pair = f"{shown(first)} and {shown(before if start < end else others[0])}"
                raise ProgramError(f"Tensors {pair} must lie apart in the image, not overlap")
            end, before = behind, first

    def outline(self) -> dict[str, Tensor]:
        """Stand-ins of the right types and shapes, without contents and without cost; only after :meth:`check`."""
        return {name: _stand_in(ref) for name, ref in self._refs.items()}

    def stream_sizes(self) -> dict[str, int]:
        """Bytes of all weight streams by what they hold, each stream once, without padding to a line; reads headers.

        Raises:
            ProgramError: as :meth:`check`.
        """
        sizes: Counter[str] = Counter()
        for name, ref in self._refs.items():
            if ref.kind == WEIGHT:
                sizes.update(self._outline(name).sizes)
        return dict(sizes)

    def _extent(self, name: str) -> tuple[int, int]:
        """First byte of tensor ``name`` in the image, and the byte behind it; both are inside."""
        ref, size = self._refs[name], self._image.size
        where = f"Reference of tensor {shown(name)}"
        if ref.kind not in KINDS:
            raise ProgramError(f"{where} must have a kind of {KINDS}, not {shown(ref.kind)}")
        if len(ref.shape) not in ((2,) if ref.kind in STREAMS else (1, 2)) or min(ref.shape) < 1:
            raise ProgramError(f"{where} must have a shape of rows and columns, not {shown(ref.shape)}")
        matrix = len(ref.shape) == 2 and ref.kind not in STREAMS
        if min(ref.line, ref.offset) < 0 or (matrix and ref.offset):
            raise ProgramError(f"{where} must begin in the image, not at line {ref.line} and byte {ref.offset}")
        if (ref.nbytes > 0) is not (ref.kind in STREAMS) or ref.nbytes < 0:
            raise ProgramError(f"{where} must have bytes exactly if it is to a stream, not {ref.nbytes}")
        start = ref.line * self._config.line_bytes + ref.offset
        nbytes = ref.nbytes
        if ref.kind not in STREAMS:
            nbytes = ref.shape[-1] * FloatFormat(ref.kind).bytes
            if matrix:
                nbytes = row_layout(self._config, nbytes).lines(ref.shape[0]) * self._config.line_bytes
        end = start + nbytes
        if end > size:
            raise ProgramError(f"Tensor {shown(name)} must end within the {size} bytes of the image, not at {end}")
        return start, end

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        start, end = self._extent(name)
        return self._image.reshape(-1)[start:end]

    def _outline(self, name: str) -> stream.Outline:
        """Outline of the stream of tensor ``name``, which is as long as the reference says and has as many rows."""
        ref = self._refs[name]
        with _stream_of(name):
            found = stream.outline(self._bytes(name), ref.shape[1], self._config)
        self._check_size(name, found.rows, found.consumed)
        return found

    def _check_size(self, name: str, rows: int, nbytes: int) -> None:
        ref = self._refs[name]
        if (rows, nbytes) != (ref.shape[0], ref.nbytes):
            raise ProgramError(
                f"Stream of tensor {shown(name)} must have {ref.shape[0]} rows in {ref.nbytes} bytes, "
                f"not {rows} in {nbytes}"
            )


@contextlib.contextmanager
def _stream_of(name: str) -> Iterator[None]:
    """Name the tensor in errors of its stream."""
    try:
        yield
    except ProgramError as error:
        raise ProgramError(f"Stream of tensor {shown(name)}: {error}") from None


def _stand_in(ref: TensorRef) -> Tensor:
    """A tensor of one element, repeated without being copied."""
    if ref.kind not in STREAMS:
        fmt = FloatFormat(ref.kind)
        return FloatTensor(fmt, np.broadcast_to(np.zeros((), fmt.dtype), ref.shape))
    rows, columns = ref.shape
    if ref.kind == BIAS:
        return FloatTensor(FloatFormat.F32, np.broadcast_to(np.zeros((), np.float32), (rows,)))
    wide, one = (rows, -(-columns // BLOCK) * BLOCK), (rows, 1)
    return QuantTensor(
        columns=columns,
        bits=8,
        group=wide[1],
        codes=np.broadcast_to(np.int16(0), wide),
        mask=np.broadcast_to(np.bool_(True), wide),
        kept=np.broadcast_to(np.uint8(BLOCK), (rows,)),
        scales=np.broadcast_to(np.uint8(1), one),
        zeros=np.broadcast_to(np.uint8(0), one),
        channel_scales=np.broadcast_to(np.float32(0), (rows,)),
    )
