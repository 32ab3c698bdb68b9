# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can cause, each with a stable code and an exit status.

Every message names the thing, the rule and the value: ``<Thing> must be <rule>, not <value>``.
"""

from __future__ import annotations


class CatenaryError(Exception):
    """Base of every error that Catenary raises on purpose.

    Attributes:
        code: stable machine-readable name, printed by ``--json``.
        exit_status: process exit status (1 = failed, 2 = bad usage or bad input).
    """

    code = "error"
    exit_status = 1


class UsageError(CatenaryError):
    """An option or argument breaks a rule."""

    code = "usage"
    exit_status = 2


class CheckpointError(CatenaryError):
    """A model checkpoint is missing, damaged or not supported."""

    code = "bad-checkpoint"
    exit_status = 2


class UnsupportedModelError(CheckpointError):
    """A checkpoint is sound, but asks for something that has no lowering."""

    code = "unsupported-model"


class ConfigError(CatenaryError):
    """An accelerator or board configuration breaks a rule."""

    code = "bad-config"
    exit_status = 2


class GraphError(CatenaryError):
    """A graph is not well formed."""

    code = "bad-graph"
    exit_status = 2


class CompileError(CatenaryError):
    """A sound model does not fit the accelerator or the options."""

    code = "compile"
    exit_status = 2


class ProgramError(CatenaryError):
    """A program file is damaged, of another version, or breaks a rule."""

    code = "bad-program"
    exit_status = 2


class EncodingError(ProgramError):
    """A field value or an instruction word is outside what the instruction set allows."""

    code = "bad-instruction"


class DeviceError(CatenaryError):
    """A device is unknown, unavailable or refuses a program."""

    code = "device"
    exit_status = 2


class ExecutionError(CatenaryError):
    """A program broke a rule while it ran; the message names the instruction."""

    code = "execution"
