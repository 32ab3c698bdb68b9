# SPDX-License-Identifier: Apache-2.0
"""From the arguments of a verb to a model on a device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import catenary
from catenary.isa.errors import UsageError
from catenary.runtime.devices import device_info

if TYPE_CHECKING:
    from catenary.compiler.importers import ImportedModel
    from catenary.isa.program import Program
    from catenary.runtime.engine import Engine


NAN_SEEN = "a NaN was quantised to 0 on the way; the results mean nothing"
DEMO_MODEL = Path("models") / "demo-dense"
"""The model that runs when none is named, in a checkout of the project."""


def warn(message: str) -> None:
    """Print a warning, one line on stderr."""
    sys.stderr.write(f"warning: {message}\n")


def load_source(path: Path | None, device: str | None) -> Program | ImportedModel:
    """The program or model at ``path``, which is to run on ``device``.

    Raises:
        UsageError: no path is given, or there is nothing there.
        DeviceError: the device is unknown, which is told before a large file is read.
    """
    if path is None:
        path = _checkout() / DEMO_MODEL
        if not path.is_dir():
            raise UsageError("PROGRAM or MODEL must be given: the demo model comes with a checkout of the project only")
    if device is not None:
        device_info(device)
    return catenary.load(path)


def _checkout() -> Path:
    """The checkout that this package is installed from in editable form; of a wheel, a folder without models."""
    return Path(catenary.__file__).resolve().parents[2]


def open_engine(
    device: str | None,
    source: Program | ImportedModel,
    trace: Path | None = None,
    timeline: Path | None = None,
    tune: bool = False,
) -> Engine:
    """``source`` on ``device``, with a progress bar for the builds that a model, or a simulation, may need."""
    from catenary.cli.progress import stages

    with stages() as progress:
        return catenary.open_device(
            device, source, trace=trace, timeline=timeline, tune=tune, progress=progress, warn=warn
        )
