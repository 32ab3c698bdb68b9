# SPDX-License-Identifier: Apache-2.0
"""The instruction-set simulator: runs encoded programs, bit exact, with the machine's buffers, queues and tokens."""

from catenary.sim.iss.machine import Machine, RunReport
from catenary.sim.iss.memory import Traffic

__all__ = ["Machine", "RunReport", "Traffic"]
