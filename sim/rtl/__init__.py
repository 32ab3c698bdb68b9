# SPDX-License-Identifier: Apache-2.0
"""The Amaranth design, compiled: Verilog, a C++ model, and a host and memories in C++ around it.

Nothing here is imported by ``import catenary``, and Amaranth and Verilator only when something is built.
"""
