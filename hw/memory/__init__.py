# SPDX-License-Identifier: Apache-2.0
"""The memory side: AXI4 masters, lines out of and into all ports together, and the load and store units."""
