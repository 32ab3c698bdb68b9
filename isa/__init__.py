# SPDX-License-Identifier: Apache-2.0
"""What a program is: opcodes, formats, configuration, graph types, register map and program file."""
