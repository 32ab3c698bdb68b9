# SPDX-License-Identifier: Apache-2.0
"""The accelerator, in Amaranth."""
