# SPDX-License-Identifier: Apache-2.0
"""On-chip buffers: V, A and D, their clients' signatures, and the arbiters between clients."""
