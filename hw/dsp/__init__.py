# SPDX-License-Identifier: Apache-2.0
"""Cascades of multipliers: behavioural, and of the DSP slices of FPGAs."""
