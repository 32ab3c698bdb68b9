# SPDX-License-Identifier: Apache-2.0
"""Resolve requirements/core.in, rtl.in and dev.in into lock files: every package behind them at an exact version.

Run by ``make lock`` with the lowest supported Python, so that every later one can install the result too. The files
name packages and versions only; where packages come from, and their hashes, are the business of each machine's pip.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
LOWEST = (3, 11)

# torch brings these or not, depending on which build of its version pip finds. The CPU build needs none of them.
_PLATFORM = re.compile(r"(nvidia|cuda|triton)\b", re.IGNORECASE)


def normalise(frozen: str) -> list[str]:
    """Turn the output of ``pip freeze --all`` into sorted lines without pip, CUDA packages and local versions."""
    lines = [re.sub(r"\+[\w.]+$", "", line.strip()) for line in frozen.splitlines()]
    kept = [line for line in lines if line and not line.lower().startswith("pip==") and not _PLATFORM.match(line)]
    for line in kept:
        if not re.fullmatch(r"[\w.-]+==[\w.!]+", line):
            raise SystemExit(f"Locked package must be name==version, not {line!r}")
    return sorted(kept, key=str.lower)


def write(name: str, header: str, lines: list[str]) -> None:
    """Write one lock file; leave it alone where nothing changed, so that nothing is installed again."""
    text = f"# {header} Written by `make lock`; do not edit.\n" + "".join(line + "\n" for line in lines)
    path = FOLDER / name
    changed = not path.exists() or path.read_text(encoding="utf-8") != text
    if changed:
        path.write_text(text, encoding="utf-8")
    print(f"requirements/{name}: {len(lines)} packages, {'changed' if changed else 'unchanged'}")


def main() -> None:
    """Install each list into an empty environment and write down what is there."""
    if sys.version_info[:2] != LOWEST:
        raise SystemExit(f"Python must be {LOWEST[0]}.{LOWEST[1]}, the lowest supported, not {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(Path(folder) / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]

        def freeze() -> list[str]:
            done = subprocess.run([*pip, "freeze", "--all"], check=True, capture_output=True, text=True)
            return normalise(done.stdout)

        def install(wanted: str, *locked: str) -> None:
            constraints = [argument for name in locked for argument in ("-c", str(FOLDER / name))]
            subprocess.run([*pip, "install", "-qq", *constraints, "-r", str(FOLDER / wanted)], check=True)

        # A new environment of Python 3.11 holds an old setuptools, which would stay where it satisfies core.in.
        subprocess.run([*pip, "uninstall", "-qq", "--yes", "setuptools"], check=True)
        install("core.in")
        core = freeze()
        write("core.lock", "Exact versions behind core.in.", core)
        install("rtl.in", "core.lock")
        rtl = [line for line in freeze() if line not in core]
        write("rtl.lock", "Exact versions behind rtl.in, less those of core.lock.", rtl)
        install("dev.in", "core.lock", "rtl.lock")
        dev = [line for line in freeze() if line not in core and line not in rtl]
        write("dev.lock", "Exact versions behind dev.in, less those of the other two.", dev)


if __name__ == "__main__":
    main()
