# SPDX-License-Identifier: Apache-2.0
"""The process's entry point: an interruption while modules are still being imported ends like any other."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command ``catenary``."""
    try:
        from catenary.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
