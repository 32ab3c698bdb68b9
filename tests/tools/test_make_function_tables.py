# SPDX-License-Identifier: Apache-2.0
"""The committed coefficients are what the generator writes, and both sides describe the same datapath."""

import json
from decimal import Decimal

import numpy as np
import pytest

from catenary.isa import functions as isa
from tools import make_function_tables as generator


def test_generator_and_isa_describe_one_datapath():
    assert generator.FRACTION_BITS == isa.FRACTION_BITS
    assert generator.VALUE_BITS == isa.VALUE_BITS
    assert (generator.SHIFT1, generator.SHIFT2) == (isa.SHIFT1, isa.SHIFT2)


@pytest.fixture(scope="module")
def text():
    return generator.render(generator.make_tables())


def test_the_committed_file_is_up_to_date(text):
    assert generator.OUTPUT.read_text(encoding="utf-8") == text


def test_the_package_reads_what_was_written(text):
    written = {table["name"]: table["entries"] for table in json.loads(text)["tables"]}
    assert list(written) == list(isa.TABLES)
    for name, table in isa.TABLES.items():
        assert written[name] == [list(entry) for entry in zip(table.c0, table.c1, table.c2, strict=True)]


@pytest.mark.parametrize("x", ["0", "0.001", "0.5", "1", "2.5", "4"])
def test_reference_functions_against_float64(x):
    value = Decimal(x)
    wide = float(x)
    assert float(generator.tanh(value)) == pytest.approx(np.tanh(wide), rel=1e-15)
    assert float(generator.tanh_over_x(value)) == pytest.approx(np.tanh(wide) / wide if wide else 1, rel=1e-15)
    want = {"0": 1.1283791670955126, "1": 0.8427007929497149, "4": 0.99999998458274209 / 4}
    if x in want:
        assert float(generator.erf_over_x(value)) == pytest.approx(want[x], rel=1e-15)


def test_entries_start_exactly_where_results_must_be_exact():
    one = 1 << isa.VALUE_BITS
    assert isa.RECIPROCAL.c0[0] == isa.EXP2.c0[0] == isa.RSQRT.c0[128] == isa.TANH.small.c0[0] == one
    assert isa.ERF.small.c0[0] == round(Decimal("1.1283791670955125739") * one)
