# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The ``crash`` utility, to compare with: the one of this machine, or Debian sid's.

Versions before 9 are not used: Debian 12's (8.0.2) finds two tasks in a core of Debian 12's kernel.
Sid's crash is unpacked into the cache with its libraries and its dynamic loader, and runs there;
nothing is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vm import apt, cache
from vm.errors import VmError
from vm.kernels import DAY, version_key

OLDEST = (9,)
SUITE = "sid"

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = f"{_LIBRARIES}/ld-linux-x86-64.so.2"
_PROGRAM = "usr/bin/crash"

# " 3 ff2ff4b10de98d00 ff2ff4b10281dc00 ff2ff4b102131b80 SOCK UNIX:STREAM"
_FILE = re.compile(rb" *\d+ +[0-9a-f]{16} +[0-9a-f]{16} +[0-9a-f]{16} +\S")
# " 3 ff2ff4b10de98d00 ff2ff4b10281dc00 UNIX:STREAM"
_SOCKET = re.compile(rb" *\d+ +[0-9a-f]{16} +[0-9a-f]{16} +[A-Z0-9_]+:\S")


@dataclass(frozen=True)
class Crash:
    """A crash utility that can be run."""

    #: The start of its command line. The name of a core must have no ``@``, which paths in our
    #: cache have: crash takes ``FILE@ADDRESS`` for a RAM dump.
    argv: tuple[str, ...]
    version: str


def get() -> Crash:
    """
    Get crash 9 or later, downloaded when first asked for.

    :raises VmError: if it cannot be downloaded, or does not run
    """
    here = shutil.which("crash")
    if here is not None:
        version = _version((here,))
        if version is not None and version_key(version) >= OLDEST:
            return Crash((here,), version)
    trees = cache.root() / "crash"
    for tree in sorted(trees.glob("[!.]*"), key=lambda p: version_key(p.name), reverse=True):
        return _of_tree(tree)
    repository = apt.Apt(SUITE)
    repository.update(max_age=DAY)
    packages = repository.closure("crash")
    (version,) = (p.split("=")[1] for p in packages if p.startswith("crash="))
    patterns = [f"./{_PROGRAM}", f"./{_LIBRARIES}/*.so*"]
    return _of_tree(
        cache.ensure(
            trees / re.sub(r"[^\w.+~-]", "_", version),
            lambda part: repository.unpack(packages, part, patterns),
        )
    )


def _of_tree(tree: Path) -> Crash:
    argv = (
        *(str(tree / _LOADER), "--library-path", str(tree / _LIBRARIES)),
        str(tree / _PROGRAM),
    )
    version = _version(argv)
    if version is None:
        raise VmError(f"crash of Debian {SUITE} does not run here: remove {tree} to try again")
    if version_key(version) < OLDEST:
        raise VmError(f"crash of Debian {SUITE} is {version}: remove {tree} to try again")
    return Crash(argv, version)


def _version(argv: tuple[str, ...]) -> str | None:
    try:
        done = subprocess.run(
            [*argv, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return version_in(done.stdout)


def version_in(text: str) -> str | None:
    """Find the version in what ``crash --version`` prints."""
    m = re.search(r"^crash (\d[\d.]*)", text, re.MULTILINE)
    return m[1] if m else None


def files_in(output: Iterable[bytes]) -> int:
    """Count the file descriptors in what ``foreach files`` prints."""
    return sum(_FILE.match(line) is not None for line in output)


def sockets_in(output: Iterable[bytes]) -> int:
    """Count the sockets in what ``net -s`` prints."""
    return sum(_SOCKET.match(line) is not None for line in output)
