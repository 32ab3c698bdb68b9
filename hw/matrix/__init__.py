# SPDX-License-Identifier: Apache-2.0
"""The matrix unit: multiplier array with sparse operand selection, exact sums, and FP32 results."""
