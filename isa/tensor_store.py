# SPDX-License-Identifier: Apache-2.0
"""Tensors of a program's graph, read from the memory image on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catenary.isa import stream
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ProgramError
from catenary.isa.graph import Tensor
from catenary.isa.memory import row_layout
from catenary.isa.tensors import FloatFormat, FloatTensor


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor lies in the image.

    Attributes:
        kind: ``f32``, ``f16``, ``bf16``: rows of floats; ``weight``: a weight stream; ``bias``: the bias in a stream.
        shape: shape of the tensor.
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
    def from_json(cls, name: str, data: Any) -> TensorRef:  # noqa: ANN401
        """Inverse of :meth:`to_json`.

        Raises:
            ProgramError: a key is missing or a value has the wrong type.
        """
        if not isinstance(data, dict) or set(data) != {f.name for f in fields(cls)}:
            raise ProgramError(f"Reference of tensor {name!r} must have keys {[f.name for f in fields(cls)]}, not {data!r}")
        ref = cls(**{**data, "shape": tuple(data["shape"])})
        numbers = (*ref.shape, ref.line, ref.offset, ref.nbytes)
        if ref.kind not in ("weight", "bias", *(f.value for f in FloatFormat)) or any(type(n) is not int for n in numbers):
            raise ProgramError(f"Reference of tensor {name!r} must have a known kind and whole numbers, not {data!r}")
        return ref


class TensorStore(Mapping[str, Tensor]):
    """The tensors of a graph by name; every access decodes from the image, so keep what you need.

    Args:
        image: uint8 [lines, line_bytes].
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
        """Decode tensor ``name``.

        Raises:
            KeyError: no such tensor.
            ProgramError: the image does not hold what the reference says.
        """
        ref = self._refs[name]
        lines = self._image[ref.line :]
        data = lines.reshape(-1)[ref.offset :]
        if ref.kind in ("weight", "bias"):
            weight, bias, _ = stream.unpack(data[: ref.nbytes], ref.shape[-1], self._config)
            tensor: Tensor = weight
            if ref.kind == "bias":
                if bias is None:
                    raise ProgramError(f"Stream of tensor {name!r} must hold a bias, not none")
                tensor = FloatTensor(FloatFormat.F32, bias[: ref.shape[0]])
        else:
            fmt = FloatFormat(ref.kind)
            layout = row_layout(self._config, ref.shape[-1] * fmt.bytes)
            if len(ref.shape) == 2 and layout.lines(ref.shape[0]) <= len(lines):
                rows = np.ascontiguousarray(layout.gather(lines[: layout.lines(ref.shape[0])], ref.shape[0]))
            else:
                rows = np.ascontiguousarray(data[: ref.shape[-1] * fmt.bytes])
            tensor = FloatTensor(fmt, rows.view(fmt.dtype))
        if ref.kind != "bias" and tensor.shape != ref.shape:
            raise ProgramError(f"Tensor {name!r} must have shape {ref.shape} in the image, not {tensor.shape}")
        return tensor
