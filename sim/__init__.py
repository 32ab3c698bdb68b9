# SPDX-License-Identifier: Apache-2.0
"""Executable semantics, bit exact: the arithmetic definition, the reference, the instruction-set simulator."""
