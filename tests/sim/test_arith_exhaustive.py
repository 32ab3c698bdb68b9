# SPDX-License-Identifier: Apache-2.0
"""The error of every function at every argument that matters: the figures of docs/numerics.md.

Run: pytest -m slow tests/sim/test_arith_exhaustive.py -s
"""

import numpy as np
import pytest

from tests.sim.function_errors import MAX_ULP, ulp_errors

MANTISSAS = 1 << 23

# Exponents that cover each function. Reciprocal and rsqrt repeat every one and two binades. Below the lowest exponent
# of the others the table position is 0: the result is 1, 0.5, x or x * 2 / sqrt(pi), and the error does not change.
BINADES = {
    "reciprocal": [(0, 1)],
    "rsqrt": [(0, 1), (1, 1)],
    "exp": [(e, sign) for e in range(-26, 7) for sign in (1, -1)],
    "sigmoid": [(e, sign) for e in range(-26, 7) for sign in (1, -1)],
    "tanh": [(e, 1) for e in range(-26, 4)],
    "erf": [(e, 1) for e in range(-26, 2)],
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", BINADES)
def test_largest_error_over_all_arguments(name):
    worst, place = 0.0, 0.0
    step = 1 << 20
    for exponent, sign in BINADES[name]:
        for first in range(0, MANTISSAS, step):
            bits = np.arange(first, first + step, dtype=np.uint32) + np.uint32((exponent + 127) << 23)
            x = bits.view(np.float32) * np.float32(sign)
            errors = ulp_errors(name, x)
            if errors.size and errors.max() > worst:
                worst, place = float(errors.max()), float(np.abs(x).min())
    print(f"{name}: {worst:.4f} ulp, near |x| = {place:g}")
    assert MAX_ULP[name] - 0.02 < worst <= MAX_ULP[name]
