# SPDX-License-Identifier: Apache-2.0
"""Generated and compiled files, kept under a hash of everything that they depend on.

An entry is a folder. It is made under another name and renamed when complete, so one that exists is whole; a lock lets
processes that want the same entry at the same time wait for one another instead of making it twice. The cache is
``$CATENARY_RTL_CACHE``, else ``$XDG_CACHE_HOME/catenary/rtl``, else ``~/.cache/catenary/rtl``; deleting it is always
safe.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from catenary.isa.errors import DeviceError

KEEP_SECONDS = 30 * 24 * 3600
"""Entries that nobody has used for so long are removed when a new one is made."""

Progress = Callable[[str, float], None]
"""Told what is being done, and the share of it that is done."""


def quiet(stage: str, share: float) -> None:
    """A :data:`Progress` that tells nobody."""


def cache_folder() -> Path:
    """Where entries are kept; it need not exist."""
    named = os.environ.get("CATENARY_RTL_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "catenary" / "rtl"


def digest(*parts: str | bytes) -> str:
    """Hash of ``parts``, in which the borders between them count."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return total.hexdigest()[:32]


def entry(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder ``kind-key`` of the cache, made now if it is not there.

    Args:
        kind: what it holds, part of its name.
        key: :func:`digest` of everything that the contents depend on.
        make: fills the empty folder that it is given. When it raises, the folder stays under the name
            ``kind-key.failed``, so that logs can be read.

    Raises:
        DeviceError: the cache cannot be written.
    """
    folder = cache_folder()
    path = folder / f"{kind}-{key}"
    if not path.is_dir():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / f"{kind}-{key}.lock").open("w")
        except OSError as error:
            raise DeviceError(f"Cache of hardware builds must be writable, not {folder} ({error.strerror})") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_dir():
                _fill(path, make)
                _prune(folder)
    os.utime(path)
    return path


def known(kind: str, key: str) -> bool:
    """Whether the cache has the folder ``kind-key``."""
    return (cache_folder() / f"{kind}-{key}").is_dir()


def failed(path: Path) -> Path:
    """Where what was made of the entry ``path`` lies after a failure."""
    return path.with_name(f"{path.name}.failed")


def _fill(path: Path, make: Callable[[Path], None]) -> None:
    part = path.with_name(f"{path.name}.part")  # ours alone while we hold the lock; left over if its maker was killed
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        make(part)
    except BaseException:
        shutil.rmtree(failed(path), ignore_errors=True)
        part.rename(failed(path))
        raise
    part.rename(path)


def _prune(folder: Path) -> None:
    limit = time.time() - KEEP_SECONDS
    for old in folder.iterdir():
        if old.stat().st_mtime < limit:
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.unlink(missing_ok=True)
