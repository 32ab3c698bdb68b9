# SPDX-License-Identifier: Apache-2.0
"""Devices, one file each, found by file name: ``graph_fp32.py`` is the device ``graph-fp32``.

A file defines ``DEVICE = DeviceInfo(...)``. It is imported only when its device is asked for, or listed, so that a
device's own requirements burden nobody else. There is no fallback: what cannot be opened raises and says why.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from catenary.isa.errors import DeviceError, UsageError
from catenary.isa.program import Program
from catenary.runtime.engine import Engine, FloatModel, Source


@dataclass(frozen=True)
class OpenOptions:
    """What some devices can do beside running a program.

    Attributes:
        trace: file for the waveform of all signals.
        timeline: file for what each unit executed when.
        progress: told of the stages of opening the device.
    """

    trace: Path | None = None
    timeline: Path | None = None
    progress: Callable[[str, float], None] | None = None


@dataclass(frozen=True)
class DeviceInfo:
    """What a device file says about its device.

    Attributes:
        name: the file name with ``-`` for ``_``.
        source: where the device's figures come from.
        available: whether the device can be opened on this machine, and if not, what is missing.
        open: load a program (or a float model) and return the engine; raises
            :class:`~catenary.isa.errors.DeviceError` when the device refuses it.
        takes: what ``open`` accepts, a compiled program or an imported float model.
        open_with: ``open`` with options, for devices that heed them.
    """

    name: str
    source: Source
    available: Callable[[], tuple[bool, str]]
    open: Callable[[Any], Engine]
    takes: Literal["program", "model"] = "program"
    open_with: Callable[[Any, OpenOptions], Engine] | None = None


@dataclass(frozen=True)
class DeviceStatus:
    """One line of ``catenary devices``.

    Attributes:
        name: as ``--device`` takes it.
        available: whether it can be opened on this machine.
        reason: what is missing, or what the device is.
    """

    name: str
    available: bool
    reason: str


def device_names() -> tuple[str, ...]:
    """Names of all known devices, available or not, in alphabetical order."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


def device_info(name: str) -> DeviceInfo:
    """The description of the device called ``name``.

    Raises:
        DeviceError: no device has that name; the message lists those that there are.
    """
    names = device_names()
    if name not in names:
        raise DeviceError(f"Device must be one of {', '.join(names)}, not {name!r}")
    info = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").DEVICE
    if not isinstance(info, DeviceInfo) or info.name != name:
        raise DeviceError(f"Device file of {name} must define DEVICE with that name, not {info!r}")
    return info


def list_devices() -> list[DeviceStatus]:
    """Availability of every known device, in alphabetical order."""
    return [DeviceStatus(name, *device_info(name).available()) for name in device_names()]


def check_options(name: str, options: OpenOptions) -> None:
    """Check that the device called ``name`` can do what ``options`` ask for.

    Raises:
        DeviceError: the device is unknown.
        UsageError: it writes no trace and no timeline.
    """
    if device_info(name).open_with is None:
        for option in ("trace", "timeline"):
            if getattr(options, option) is not None:
                raise UsageError(f"{option} must be asked of a device that simulates hardware (rtl), not of {name}")
    if options.tune and options.trace:
        raise UsageError("tune must not be asked for together with a trace, which has a build of its own")


def open_device(name: str, source: Program | FloatModel, options: OpenOptions | None = None) -> Engine:
    """Load ``source`` on the device called ``name``.

    Args:
        name: one of :func:`device_names`.
        source: a program, or for a float device the imported model.
        options: what else is wanted of the device.

    Raises:
        DeviceError: the device is unknown or unavailable, does not take this kind of source, or refuses the program.
        UsageError: the device cannot do what the options ask for.
    """
    options = options or OpenOptions()
    info = device_info(name)
    check_options(name, options)
    given = "program" if isinstance(source, Program) else "model"
    if given != info.takes:
        wanted = "a compiled program" if info.takes == "program" else "an uncompressed model"
        raise DeviceError(f"Device {name} must be given {wanted}, not a {given}")
    available, reason = info.available()
    if not available:
        raise DeviceError(f"Device {name} must be available on this machine: {reason}")
    return info.open(source) if info.open_with is None else info.open_with(source, options)
