# SPDX-License-Identifier: Apache-2.0
"""Arrays through compiled FP components, a number a cycle, and numbers that are worth sending."""

from __future__ import annotations

import gc
import warnings

import numpy as np
from amaranth import Module
from amaranth.hdl import UnusedElaboratable
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from tests.hw.compiled import Compiled


class _Parts(wiring.Component):
    """Components side by side, each under its name, so that one build serves them all."""

    def __init__(self, parts):
        self._parts = parts
        super().__init__({name: Out(part.signature) for name, part in parts.items()})

    def elaborate(self, platform):
        m = Module()
        for name, part in self._parts.items():
            m.submodules[name] = part
            wiring.connect(m, wiring.flipped(getattr(self, name)), part)
        return m


class Bench:
    """Compiled components by name, built when the first one is used.

    Args:
        make: returns them.
    """

    def __init__(self, make):
        self._make = make
        self._compiled = None

    def cycles(self, name, inputs, outputs):
        """Cycle by cycle, columns of inputs to columns of outputs, seen before the clock edge."""
        if self._compiled is None:
            self._parts = self._make()
            self._compiled = Compiled(_Parts(self._parts))
        given = {f"{name}.{port}": values for port, values in inputs.items()}
        columns = self._compiled.run(given, [f"{name}.{port}" for port in outputs])
        return [columns[f"{name}.{port}"] for port in outputs]

    def results(self, name, inputs, outputs=("o",), seed=None):
        """Results of a pipelined component, a row of ``outputs`` for every row of ``inputs``.

        Without a seed it is enabled all the time; with one, at random, and while it is not, inputs are noise and
        outputs must hold.
        """
        self.cycles(name, {"enable": [0]}, ())  # built: now the latency is known
        latency = self._parts[name].latency
        rows = {port: np.pad(values, (0, latency)) for port, values in inputs.items()}
        (length,) = {len(values) for values in rows.values()}
        enabled = np.ones(length, bool)
        if seed is not None:
            rng = np.random.default_rng(seed)
            enabled = rng.random(3 * length + 100) < 0.6
            enabled = enabled[: np.flatnonzero(enabled)[length - 1] + 1]
            for port, values in rows.items():
                noise = rng.integers(0, 8, len(enabled)).astype(values.dtype)
                noise[enabled] = values
                rows[port] = noise
        columns = self.cycles(name, {**rows, "enable": enabled}, outputs)
        for column in columns:
            held = ~enabled[:-1]
            assert (column[1:][held] == column[:-1][held]).all(), f"{name} moved while disabled, seed {seed}"
        return [column[enabled][latency:] for column in columns]


def refusal(make, *arguments):
    """Why a component cannot be made: the text of its ValueError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)
        try:
            make(*arguments)
        except ValueError as error:
            text = str(error)
        gc.collect()
    return text


def words(x):
    """FP32 numbers as their bits."""
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def floats(bits):
    """FP32 numbers of their bits."""
    return np.asarray(bits, np.uint32).view(np.float32)


def special_words():
    """Zeros, subnormals, the smallest and largest numbers, infinities, NaN of all kinds; both signs of everything."""
    magnitudes = [0x00000000, 0x00000001, 0x00400000, 0x007FFFFF, 0x00800000, 0x00800001, 0x00FFFFFF, 0x01000000]
    magnitudes += [0x33800000, 0x34000000, 0x3EFFFFFF, 0x3F000000, 0x3F000001, 0x3F7FFFFF, 0x3F800000, 0x3F800001]
    magnitudes += [0x3FC00000, 0x3FFFFFFF, 0x40000000, 0x4B000001, 0x4B800000, 0x4F000000, 0x7E800000, 0x7EFFFFFF]
    magnitudes += [0x7F000000, 0x7F7FFFFE, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF]
    words = np.array(magnitudes, np.uint32)
    return np.concatenate([words, words | np.uint32(1 << 31)])


def every_exponent():
    """All exponents with some fractions each, both signs."""
    exponents = np.arange(256, dtype=np.uint32) << np.uint32(23)
    fractions = np.array([0, 1, 2, 0x3FFFFF, 0x400000, 0x400001, 0x555555, 0x7FFFFE, 0x7FFFFF], np.uint32)
    magnitudes = (exponents[:, None] | fractions).ravel()
    return np.concatenate([magnitudes, magnitudes | np.uint32(1 << 31)])


def random_words(seed, count):
    """Uniform bits: every exponent is equally likely."""
    return np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32)


def all_pairs(left, right):
    """Every element of ``left`` with every one of ``right``."""
    grid = np.meshgrid(left, right, indexing="ij")
    return grid[0].ravel(), grid[1].ravel()


def disagreement(got, want, **arguments):
    """None where the columns agree, else the first row that does not, as text in hexadecimal."""
    got, want = np.asarray(got).astype(np.int64), np.asarray(want).astype(np.int64)
    wrong = np.flatnonzero(got != want)
    if not wrong.size:
        return None
    row = wrong[0]
    given = ", ".join(f"{name}={int(column[row]):08x}" for name, column in arguments.items())
    return f"{wrong.size} of {got.size} differ, first row {row}: {given}: {got[row]:08x}, not {want[row]:08x}"
