# SPDX-License-Identifier: Apache-2.0
"""Accelerators that the tests of the stream front run on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catenary.boards.loader import load_accelerator

SMALL = load_accelerator("small")
ODD = replace(
    SMALL, name="odd", port_bytes=(4, 8), chains=3, chain_length=32, mm_tokens=6, stream_atom=4, vector_lanes=2
)
"""Lines of three words, six groups of lanes, filled by twos."""
WIDE = replace(SMALL, name="wide", port_bytes=(64, 128, 64), chains=6, chain_length=32, mm_tokens=8, stream_atom=32)
"""Lines of 64 words, and twelve groups of lanes, all of which a cycle fills."""
TINY = replace(SMALL, name="tiny", port_bytes=(4, 16), chains=1, chain_length=16, mm_tokens=2, stream_atom=12)
"""One group of lanes; lines of five words and atoms of three, so that sections begin anywhere in a line."""
HBM = load_accelerator("hbm-slice")
"""A slot is filled in one cycle."""
UNEVEN = replace(SMALL, name="uneven", port_bytes=(4, 16, 16), chains=7, chain_length=48, mm_tokens=4, stream_atom=20)
"""Three unequal ports; 21 groups of lanes, of which a cycle fills up to 6, or 3 of 8-bit codes; pairs of keys."""

CONFIGS = {config.name: config for config in (SMALL, ODD, WIDE, TINY, HBM, UNEVEN)}


def seeds(count, quick=2):
    """Seeds 0 .. ``count`` - 1, those from ``quick`` on only in slow runs."""
    return [pytest.param(seed, marks=[pytest.mark.slow] if seed >= quick else []) for seed in range(count)]
