# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs of the host, installed when they are missing."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from vm import cache
from vm.cache import note
from vm.errors import VmError

# Program: the Debian package that has it.
PACKAGES = {
    "busybox": "busybox-static",
    "debugfs": "e2fsprogs",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-x86_64": "qemu-system-x86",
    "tar": "tar",
    "zstd": "zstd",
}

#: How long another apt or dpkg of this machine may hold its locks.
LOCK_SECONDS = 600
#: Without this option, apt fails at once if another process holds dpkg's lock.
LOCK_TIMEOUT = ("-o", f"DPkg::Lock::Timeout={LOCK_SECONDS}")


def as_root(argv: Sequence[str]) -> list[str]:
    """Prefix a command with ``sudo`` unless we are root."""
    return list(argv) if os.geteuid() == 0 else ["sudo", *argv]


def find(program: str) -> str | None:
    """Find a program, in PATH and in the directories of root's PATH."""
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
    argv = as_root(["apt-get", *LOCK_TIMEOUT, "-qq", "-y", "--no-install-recommends"])
    argv += ["install", package]
    update = as_root(["apt-get", *LOCK_TIMEOUT, "-qq", "update"])
    with _installing():
        failed = _apt_get(argv)
        if failed is not None:
            _apt_get(update)
            failed = _apt_get(argv)
    if failed is not None:
        raise VmError(f"cannot install {package}: `{' '.join(argv)}`: {failed}")


def _installing() -> AbstractContextManager[None]:
    """Hold our own lock for installing: apt does not wait for all of its locks."""
    return cache.locked(cache.root() / "apt" / "install", "installs packages")


# Somebody else's apt has a lock.
_LOCKED = re.compile(r"^E: (Could not get lock|Unable to (acquire|lock)) ", re.MULTILINE)


def _apt_get(argv: Sequence[str]) -> str | None:
    """Run the host's ``apt-get``; return its last error, or ``None`` if it did well."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            r = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, env=env)
        except OSError as e:
            return f"{argv[0]}: {e.strerror}"
        if r.returncode == 0:
            return None
        text = r.stderr.decode(errors="replace").strip()
        # Package lists and archives have locks that apt does not wait for, whatever its options.
        if not _LOCKED.search(text) or time.monotonic() >= deadline:
            lines = text.splitlines() or [f"status {r.returncode}"]
            return ([line for line in lines if line.startswith("E:")] or lines)[-1]
        time.sleep(1)


def program(name: str) -> str:
    """
    Get the path of a program, installing its package if need be.

    :raises VmError: if it cannot be had
    """
    # A program that another process is installing is there before the libraries that it needs.
    with _installing():
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
        # subprocess.run() would send SIGKILL at once, but some programs have things to undo.
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                os.killpg(p.pid, number) if alone else p.send_signal(number)
                p.communicate(timeout=20)
        raise
    if p.returncode != 0:
        lines = err.decode(errors="replace").strip().splitlines() or ["no message"]
        # The last few lines of apt's or mke2fs's messages are enough.
        told = [line for line in lines if line.startswith(("E:", "Err:"))] or lines
        raise VmError(f"{what} failed (status {p.returncode}): " + "; ".join(told[-3:]))
    return out
