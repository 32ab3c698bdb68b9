# SPDX-License-Identifier: Apache-2.0
"""The vector unit: a small vector processor whose microprograms are the vector instructions."""
