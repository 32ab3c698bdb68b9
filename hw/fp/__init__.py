# SPDX-License-Identifier: Apache-2.0
"""FP32 in hardware: bit for bit what ``docs/numerics.md`` defines, fully pipelined, one rounding an operation."""
