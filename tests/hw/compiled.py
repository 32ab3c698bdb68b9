# SPDX-License-Identifier: Apache-2.0
"""A component, compiled, for tests that need many cycles: about a million a second for something small.

    from tests.hw.compiled import Compiled

    adder = Compiled(FpAdd())                                  # builds, or takes the build from the cache
    out = adder.run({"a": a, "b": b, "enable": ones}, ["o"])   # one array element a cycle
    assert (out["o"][FpAdd.latency:] == expected).all()

**Names** are dotted paths as in Amaranth: ``a``, ``request.payload.address``, ``memory.0.ar.valid``; every port of the
signature, and every field inside a port's layout (``data.StructLayout`` by name, ``data.ArrayLayout`` by index).

**Values**: fields of up to 64 bits are integers, uint64 in arrays (a signed port gives int64, and takes negative
numbers); wider ones are uint32 arrays of ceil(width / 32) words, lowest first, [cycles, words] in a run. A wider field
whose parts are narrow is most easily driven by its parts: ``{"data.0": x, "data.1": y}``.

**Cycles**: a cycle sets the inputs, lets logic settle, looks at the outputs, and ends with the rising edge. So
outputs[t] of ``run`` are those that a test bench sees just before the edge that ends cycle t, combinationally dependent
on inputs[t].

For closed loops there are ``poke``, ``peek`` and ``step``, a few hundred thousand calls a second; for streams
``transfer``, which feeds and drains any number of them with random stalls, at full speed::

    got = Compiled(Fifo()).transfer({"i": values}, {"o": len(values)}, seed=1, pace=0.7)
    assert (got["o"] == values).all()
    got = unit.transfer({"request": {"address": a, "count": n}}, {"reply": 100}, seed=1)   # structures by field
    got["reply.data"], got["reply.last"]

State and inputs stay from call to call; ``reset`` resets (also before the first cycle). A component has one clock
domain, ``sync``, or none. Set ``CATENARY_RTL_CACHE`` to choose where builds are kept.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.lib.wiring import Component

from catenary.sim import rtl
from catenary.sim.rtl.build import build
from catenary.sim.rtl.ports import Field
from catenary.sim.rtl.verilog import design_of

_SOURCES = (Path(__file__).with_suffix(".cpp"), Path(rtl.__file__).with_name("random.h"))
Values = Mapping[str, Any]


class _Column(ctypes.Structure):
    _fields_ = [("field", ctypes.c_uint32), ("data", ctypes.c_void_p)]


class _Stream(ctypes.Structure):
    _fields_ = [
        ("valid", ctypes.c_uint32),
        ("ready", ctypes.c_uint32),
        ("count", ctypes.c_uint64),
        ("pace", ctypes.c_double),
        ("columns", ctypes.c_uint32),
        ("done", ctypes.c_uint64),
    ]


class Compiled:
    """A component in compiled form; see the module's documentation.

    Args:
        component: a ``wiring.Component`` that has not been elaborated.
    """

    def __init__(self, component: Component) -> None:
        design = design_of(component)
        path = build(design, {source.name: source.read_text(encoding="utf-8") for source in _SOURCES})
        self.fields: dict[str, Field] = {}
        self._index: dict[str, int] = {}
        self._signed = {port.fields[0].path for port in design.ports if port.signed}
        for index, field in enumerate(field for port in design.ports for field in port.fields):
            self.fields[field.path] = field
            self._index[field.path] = index
        self._library = ctypes.CDLL(str(path))
        self._library.model_new.restype = ctypes.c_void_p
        self._library.model_transfer.restype = ctypes.c_uint64
        self._model = ctypes.c_void_p(self._library.model_new())

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._library.model_delete(self._model)

    def reset(self) -> None:
        """Reset for one cycle; inputs keep their values."""
        self._library.model_reset(self._model)

    def step(self, cycles: int = 1) -> None:
        """Go on by ``cycles`` rising edges and let logic settle."""
        self._library.model_step(self._model, ctypes.c_uint64(cycles))

    def poke(self, name: str, value: Any) -> None:
        """Set an input; ``peek`` sees the consequences at once."""
        self._library.model_put(self._model, *self._one(name, self._array(name, [value], "poke", output=False)))

    def peek(self, name: str) -> Any:
        """An output's (or input's) value now: an int, or words of a field of more than 64 bits."""
        values = self._room(name, 1)
        self._library.model_settle(self._model)
        self._library.model_take(self._model, *self._one(name, values))
        value = self._result(name, values)[0]
        return int(value) if values.ndim == 1 else value

    def run(self, inputs: Values, outputs: Iterable[str], cycles: int | None = None) -> dict[str, Any]:
        """Run one cycle for each element of the input arrays.

        Args:
            inputs: arrays [cycles] or [cycles, words] by name; other inputs stay as they are.
            outputs: names to record.
            cycles: only where there are no inputs.

        Returns:
            The recorded arrays by name.
        """
        arrays = {name: self._array(name, values, "run", output=False) for name, values in inputs.items()}
        lengths = {len(values) for values in arrays.values()} | ({cycles} if cycles is not None else set())
        if len(lengths) != 1:
            raise ValueError(f"Inputs must have one length, not {sorted(lengths)}")
        (count,) = lengths
        rooms = {name: self._room(name, count) for name in outputs}
        self._library.model_run(
            self._model, ctypes.c_uint64(count), len(arrays), self._columns(arrays), len(rooms), self._columns(rooms)
        )
        return {name: self._result(name, values) for name, values in rooms.items()}

    def transfer(
        self,
        sources: Values,
        sinks: Mapping[str, int],
        seed: int,
        pace: float | Mapping[str, float] = 0.7,
        cycles: int | None = None,
        tail: int = 100,
    ) -> dict[str, Any]:
        """Send and receive whole streams (``name.valid``, ``name.ready``, ``name.payload``).

        Args:
            sources: items to send by stream: an array of payloads, or arrays by field of the payload.
            sinks: number of items expected by stream.
            seed: of the random stalls.
            pace: probability that a source offers an item, or a sink accepts one, in a cycle; one number, or by stream.
            cycles: most cycles this may take; by default a generous multiple of the number of items.
            tail: cycles to go on after the last expected item, in which nothing more may come.

        Returns:
            By sink's name the payloads; or, where a payload is a structure, ``name.field`` for each of its fields.
            ``"cycles"``: cycles taken.

        Raises:
            AssertionError: not all items were moved in time, a sink withdrew or changed an item that it offered, or
                delivered more than was expected.
        """
        paces = {name: pace if isinstance(pace, float | int) else pace.get(name, 1.0) for name in (*sources, *sinks)}
        sent: list[dict[str, Any]] = []
        for name, given in sources.items():
            parts = given if isinstance(given, Mapping) else {"": given}
            paths = {f"{name}.payload.{part}".rstrip("."): values for part, values in parts.items()}
            sent.append({path: self._array(path, values, "send", output=False) for path, values in paths.items()})
        received = [{path: self._room(path, count) for path in self._leaves(name)} for name, count in sinks.items()]
        held = [{path: self._room(path, 1) for path in rooms} for rooms in received]
        counts = [len(next(iter(columns.values()))) for columns in sent]
        source = self._streams(list(sources), counts, [len(columns) for columns in sent], paces)
        sink = self._streams(list(sinks), list(sinks.values()), [len(rooms) for rooms in received], paces)
        fault = ctypes.c_uint32()
        slowest = min([*paces.values(), 1.0])
        limit = cycles or math.ceil(200 * (sum(counts) + sum(sinks.values()) + 100) / max(slowest, 0.01))
        taken = self._library.model_transfer(
            self._model,
            ctypes.c_uint64(limit),
            ctypes.c_uint64(tail),
            ctypes.c_uint64(seed),
            len(sent),
            source,
            self._columns(*sent),
            len(received),
            sink,
            self._columns(*received),
            self._columns(*held),
            ctypes.byref(fault),
        )
        if fault.value:
            name, stream = list(sinks)[fault.value - 1], sink[fault.value - 1]
            what = "more than was expected" if stream.done == stream.count else "an item and then changed it"
            raise AssertionError(f"{name} offered {what} in cycle {taken}, after {stream.done} items (seed {seed})")
        for kind, names, streams in (("took", list(sources), source), ("delivered", list(sinks), sink)):
            for name, stream in zip(names, streams, strict=False):
                if stream.done != stream.count:
                    moved = f"{stream.done} of {stream.count} items"
                    raise AssertionError(f"{name} {kind} {moved} in {taken} cycles (seed {seed})")
        results = {path: self._result(path, values) for rooms in received for path, values in rooms.items()}
        named = {path.replace(".payload", "", 1): values for path, values in results.items()}
        return {**named, "cycles": taken}

    def _leaves(self, stream: str) -> list[str]:
        path = f"{stream}.payload"
        inside = [name for name in self.fields if name.startswith(f"{path}.") and "." not in name[len(path) + 1 :]]
        return inside or [self._known(path)]

    def _streams(self, names: list[str], counts: list[int], columns: list[int], paces: Mapping[str, float]) -> Any:
        made = (_Stream * max(len(names), 1))()
        for index, name in enumerate(names):
            valid, ready = (self._index[self._known(f"{name}.{part}")] for part in ("valid", "ready"))
            made[index] = _Stream(valid, ready, counts[index], paces[name], columns[index], 0)
        return made

    def _known(self, name: str) -> str:
        if name not in self.fields:
            raise ValueError(f"Name must be one of {', '.join(self.fields)}, not {name}")
        return name

    def _words(self, name: str) -> int:
        """Words of a wide field, 0 for one of at most 64 bits."""
        width = self.fields[self._known(name)].width
        return 0 if width <= 64 else -(-width // 32)

    def _room(self, name: str, count: int) -> Any:
        words = self._words(name)
        return np.zeros((count, words), np.uint32) if words else np.zeros(count, np.uint64)

    def _array(self, name: str, values: Any, action: str, output: bool) -> Any:
        words = self._words(name)
        if self.fields[name].output != output:
            raise ValueError(f"Name to {action} must be an input, not {name}")
        if words:
            array = np.ascontiguousarray(values, np.uint32)
            if array.ndim != 2 or array.shape[1] != words:
                raise ValueError(f"{name} must have the shape [cycles, {words}], not {list(array.shape)}")
            return array
        array = np.asarray(values)
        if array.ndim != 1:
            raise ValueError(f"{name} must have the shape [cycles], not {list(array.shape)}")
        if array.dtype.kind == "O":
            array = np.array([int(value) % (1 << 64) for value in values], np.uint64)
        if array.dtype.kind not in "uib":
            raise ValueError(f"{name} must be integers, not {array.dtype}")
        if array.dtype.kind == "i":
            array = array.astype(np.int64).view(np.uint64)
        return np.ascontiguousarray(array, np.uint64)

    def _result(self, name: str, values: Any) -> Any:
        if name not in self._signed or values.ndim != 1:
            return values
        shift = np.uint64(64 - self.fields[name].width)
        return (values << shift).view(np.int64) >> shift.astype(np.int64)

    def _one(self, name: str, values: Any) -> tuple[int, Any]:
        return self._index[name], values.ctypes.data_as(ctypes.c_void_p)

    def _columns(self, *groups: Mapping[str, Any]) -> Any:
        flat = [(name, values) for group in groups for name, values in group.items()]
        made = (_Column * max(len(flat), 1))()
        for index, (name, values) in enumerate(flat):
            made[index] = _Column(self._index[self._known(name)], values.ctypes.data)
        return made
