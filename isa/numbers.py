# SPDX-License-Identifier: Apache-2.0
"""Constants of the number contract (``docs/numerics.md``), shared by the simulators and the hardware."""

from __future__ import annotations

from typing import Final

PARTIALS: Final = 128
"""Partial sums of a canonical sum."""

CODE_LIMIT: Final = 127
"""Largest magnitude of an activation code."""

MAX_REDUCTION: Final = 132_104
"""Most products of one integer sum, so that INT32 cannot overflow: ``(2**31 - 1) // (127 * 128)``."""

PROBABILITY_LIMIT: Final = 16383
"""Largest softmax weight, which goes through the matrix unit as two codes: ``128 * high + low``."""

LOW_BITS: Final = 7
"""Bits of the low part of a softmax weight."""

ABSMAX_FLOOR: Final = 2.0**-64
"""Smallest absmax: the reciprocal of a smaller one could meet a zero as 0 * inf."""
