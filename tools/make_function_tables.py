# SPDX-License-Identifier: Apache-2.0
"""Write isa/function_tables.json: the coefficients of the function unit.

Usage: python tools/make_function_tables.py [--check]

Every interval is fitted on its own. The quadratic through the three Chebyshev nodes is within a few percent of the
minimax one (J.-M. Muller, Elementary Functions, 3rd ed., section 3.3). Its coefficients are then rounded one after the
other, highest first, each time refitting what is left, and c0 is centred on the error of the integer datapath itself,
truncations included. Arithmetic is `decimal` with 60 digits, so the output is the same everywhere.
With --check nothing is written; the exit status is 1 if the committed file differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_EVEN, Decimal, getcontext
from functools import partial
from pathlib import Path

OUTPUT = Path(__file__).resolve().parent.parent / "isa" / "function_tables.json"

# The datapath, as isa/functions.py describes it. That module cannot be imported here: it reads the file made here.
FRACTION_BITS, VALUE_BITS, SHIFT2, SHIFT1 = 17, 29, 17, 21
GUARD_BITS = SHIFT1 - FRACTION_BITS
SAMPLES = 24

Entry = tuple[int, int, int]

getcontext().prec = 60
ONE, TWO = Decimal(1), Decimal(2)
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
NODES = [Decimal(n) for n in ("0.06698729810778067661", "0.5", "0.93301270189221932339")]  # (1 + cos(k pi/6)) / 2


def nearest(value: Decimal) -> int:
    """``value`` rounded to an integer, ties to even."""
    return int(value.to_integral_value(ROUND_HALF_EVEN))


def tanh(x: Decimal) -> Decimal:
    """Hyperbolic tangent for x >= 0."""
    e = (-2 * x).exp()
    return (1 - e) / (1 + e)


def erf_over_x(x: Decimal) -> Decimal:
    """erf(x)/x by its Maclaurin series; at x = 4 terms grow to 10**6, which 60 digits absorb."""
    square, power, total, n = x * x, ONE, ONE, 0
    while abs(power) > Decimal("1e-50"):
        n += 1
        power *= -square / n
        total += power / (2 * n + 1)
    return total * 2 / PI.sqrt()


def tanh_over_x(x: Decimal) -> Decimal:
    """tanh(x)/x, continued to 1 at 0."""
    return tanh(x) / x if x else ONE


def evaluate(entry: Entry, x: int) -> int:
    """The integer datapath."""
    c0, c1, c2 = entry
    return c0 + (((c1 + ((c2 * x) >> SHIFT2)) * x) >> SHIFT1)


def fit(function: Callable[[Decimal], Decimal], exact_start: bool) -> Entry:
    """Coefficients for ``function`` of t in [0, 1); with ``exact_start`` the value at t = 0 is the rounded function."""
    unit = Decimal(1 << VALUE_BITS)
    guard = unit * (1 << GUARD_BITS)
    t0, t1, t2 = NODES
    f0, f1, f2 = (function(t) for t in NODES)
    second = ((f2 - f1) / (t2 - t1) - (f1 - f0) / (t1 - t0)) / (t2 - t0)
    c2 = nearest(second * guard)
    bend = c2 / guard
    slope = ((f2 - bend * t2 * t2) - (f0 - bend * t0 * t0)) / (t2 - t0)
    if exact_start:
        start = function(Decimal(0))
        slope = sum(((f - start - bend * t * t) / t for f, t in ((f1, t1), (f2, t2))), Decimal(0)) / 2
    c1 = nearest(slope * guard)
    if exact_start:
        return nearest(function(Decimal(0)) * unit), c1, c2
    errors = []
    for sample in range(SAMPLES + 1):
        x = min((sample << FRACTION_BITS) // SAMPLES, (1 << FRACTION_BITS) - 1)
        errors.append(function(Decimal(x) / (1 << FRACTION_BITS)) * unit - evaluate((0, c1, c2), x))
    return nearest((max(errors) + min(errors)) / 2), c1, c2


def intervals(
    function: Callable[[Decimal], Decimal], start: Decimal, width: Decimal, count: int, exact_start: bool = False
) -> Iterator[Entry]:
    """Entries for ``count`` intervals of ``width`` from ``start`` on; ``exact_start`` holds for the first of them."""

    def local(base: Decimal, t: Decimal) -> Decimal:
        return function(base + width * t)

    for index in range(count):
        yield fit(partial(local, start + width * index), exact_start and index == 0)


def octaves(function: Callable[[Decimal], Decimal], count: int, exact_start: bool = False) -> list[Entry]:
    """Entries for [1, 2**count), 128 per octave."""
    entries: list[Entry] = []
    for octave in range(count):
        low = TWO**octave
        entries += intervals(function, low, low / 128, 128, exact_start and octave == 0)
    return entries


def make_tables() -> list[dict[str, object]]:
    """All tables, in ROM order."""

    def rsqrt(x: Decimal) -> Decimal:
        return ONE / x.sqrt()

    root = octaves(rsqrt, 2, exact_start=True)
    tables = [
        ("reciprocal", "1/x", "x in [1, 2): 8 bits", list(intervals(lambda x: ONE / x, ONE, ONE / 256, 256, True))),
        ("rsqrt", "x**-0.5", "x in [2, 4), then [1, 2): lowest exponent bit, 7 bits", root[128:] + root[:128]),
        ("exp2", "2**x", "x in [0, 1): 8 bits", list(intervals(lambda x: TWO**x, Decimal(0), ONE / 256, 256, True))),
        ("tanh_small", "tanh(x)/x", "x in [0, 1): 7 bits", list(_small(tanh_over_x))),
        ("tanh_large", "tanh(x)", "x in [1, 16): 2 bits of exponent, 7 bits", octaves(tanh, 4)),
        ("erf_small", "erf(x)/x", "x in [0, 1): 7 bits", list(_small(erf_over_x))),
        ("erf_large", "erf(x)", "x in [1, 4): 1 bit of exponent, 7 bits", octaves(lambda x: erf_over_x(x) * x, 2)),
    ]
    return [{"name": n, "function": f, "domain": d, "entries": e} for n, f, d, e in tables]


def _small(function: Callable[[Decimal], Decimal]) -> Iterator[Entry]:
    return intervals(function, Decimal(0), ONE / 128, 128, exact_start=True)


def render(tables: list[dict[str, object]]) -> str:
    """JSON with one entry per line, so that a change of one coefficient is a change of one line."""
    lines = ["{", ' "made_by": "tools/make_function_tables.py",', ' "tables": [']
    for number, table in enumerate(tables):
        head = ", ".join(f"{json.dumps(key)}: {json.dumps(table[key])}" for key in ("name", "function", "domain"))
        lines.append(f'  {{{head}, "entries": [')
        entries = table["entries"]
        assert isinstance(entries, list)
        lines.append(",\n".join("   " + json.dumps(entry) for entry in entries))
        lines.append("  ]}" + ("," if number + 1 < len(tables) else ""))
    return "\n".join([*lines, " ]", "}", ""])


def main() -> int:
    """Write the file, or compare with it."""
    parser = argparse.ArgumentParser(description="Write isa/function_tables.json.")
    parser.add_argument("--check", action="store_true", help="compare with the committed file instead of writing")
    text = render(make_tables())
    if parser.parse_args().check:
        same = OUTPUT.read_text(encoding="utf-8") == text
        print(f"{OUTPUT.name} is {'up to date' if same else 'out of date'}")
        return 0 if same else 1
    OUTPUT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
