# SPDX-License-Identifier: Apache-2.0
"""Devices behind one interface, tokenizers and generation."""
