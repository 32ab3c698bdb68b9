# SPDX-License-Identifier: Apache-2.0
"""``catenary devices``: what programs can run on, here."""

from __future__ import annotations

from catenary.cli import options


def verb(json: options.Json = False, debug: options.Debug = False) -> object:
    """List the devices, and why those are missing that are not available."""
    import catenary

    found = catenary.devices()
    if not json:
        from catenary.cli.tables import show

        rows = [(status.name, "yes" if status.available else "no", status.reason) for status in found]
        show(("device", "available", "what it is, or what is missing"), rows)
    return {"devices": found}
