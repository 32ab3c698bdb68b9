# SPDX-License-Identifier: Apache-2.0
"""The instruction-set simulator: runs encoded programs, bit exact, with the buffers, queues and tokens of the machine."""

from catenary.sim.iss.machine import Machine, RunReport
from catenary.sim.iss.memory import Traffic

__all__ = ["Machine", "RunReport", "Traffic"]
