# SPDX-License-Identifier: Apache-2.0
"""Boards and accelerator presets: YAML data and the code that loads it."""
