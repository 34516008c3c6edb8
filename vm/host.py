# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs of the host, installed when they are missing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vm.cache import note
from vm.errors import VmError

# Program: the Debian package that has it.
PACKAGES = {
    "busybox": "busybox-static",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "tar": "tar",
    "zstd": "zstd",
}


def as_root(argv: Sequence[str]) -> list[str]:
    """Prefix a command with ``sudo`` unless we are root."""
    return list(argv) if os.geteuid() == 0 else ["sudo", *argv]


def find(program: str) -> str | None:
    """Find a program, also where only root's PATH looks."""
    return shutil.which(
        program, path=os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    )


def install(package: str) -> None:
    """
    Install a Debian package on the host.

    :raises VmError: if that fails
    """
    if find("apt-get") is None:
        raise VmError(f"{package} is missing, and there is no apt-get here: install it by hand")
    note(f"installing {package}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    argv = as_root(["apt-get", "-qq", "-y", "--no-install-recommends", "install", package])
    failed = VmError(f"cannot install {package}: try `{' '.join(argv)}`")
    try:
        for attempt in ("as is", "after an update"):
            r = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, env=env)
            if r.returncode == 0:
                return
            if attempt == "as is":
                subprocess.run(as_root(["apt-get", "-qq", "update"]), capture_output=True, env=env)
    except OSError as e:
        raise failed from e
    raise failed


def program(name: str) -> str:
    """
    Get the path of a program, installing its package if need be.

    :raises VmError: if it cannot be had
    """
    path = find(name)
    if path is None:
        install(PACKAGES.get(name, name))
        path = find(name)
    if path is None:
        raise VmError(f"{name} is missing: install the package {PACKAGES.get(name, name)}")
    return path


def call(argv: Sequence[str], what: str, *, cwd: Path | None = None) -> bytes:
    """
    Run a program of the host and return its output.

    :param what: what it does, for the message
    :raises VmError: with the end of its standard error, if it fails
    """
    # A session of its own can be ended as a whole; sudo needs ours, to ask for a password.
    alone = argv[0] != "sudo"
    try:
        p = subprocess.Popen(
            argv,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=alone,
        )
    except OSError as e:
        raise VmError(f"{what}: {argv[0]}: {e.strerror}") from e
    try:
        out, err = p.communicate()
    except BaseException:
        # Not SIGKILL at once, as subprocess.run() does: some have things to undo.
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                os.killpg(p.pid, number) if alone else p.send_signal(number)
                p.communicate(timeout=20)
        raise
    if p.returncode != 0:
        lines = err.decode(errors="replace").strip().splitlines() or ["no message"]
        # apt's and mke2fs's own words; the last few lines tell, all of them bury.
        told = [line for line in lines if line.startswith(("E:", "Err:"))] or lines
        raise VmError(f"{what} failed (status {p.returncode}): " + "; ".join(told[-3:]))
    return out
