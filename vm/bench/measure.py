# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Runs a command as a whole process, and measures it.

Uses the standard library only, since it runs in the guest as well.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

#: A command that takes this long hangs, and is killed.
SECONDS = 900.0

_CHUNK = 1 << 16
_LAST = 4096


@dataclass(frozen=True)
class Run:
    """One run of a command."""

    seconds: float
    #: Seconds until the second line was written; the first one may be the headings.
    first: float
    #: CPU seconds, its children's included: more than ``seconds`` if it has threads or children,
    #: and nearly the same on a busy machine.
    cpu: float
    #: Never less than the peak of this process: Linux counts from before exec().
    peak_kib: int
    lines: int
    #: As of :mod:`subprocess`: negative for a signal.
    status: int
    #: The last line on standard output.
    last: str
    #: The last line on standard error.
    told: str


def run(
    argv: Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
) -> Run:
    """
    Run a command to its end.

    :param env: added to our environment
    :param output: takes what it prints, which is thrown away otherwise
    :raises OSError: if it cannot be started
    """
    with tempfile.TemporaryFile() as errors:
        start = time.monotonic()
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
        )
        assert process.stdout is not None
        late = threading.Timer(SECONDS, process.kill)
        late.start()
        try:
            lines, first, last = 0, 0.0, b""
            while chunk := process.stdout.read(_CHUNK):
                lines += chunk.count(b"\n")
                if not first and lines > 1:
                    first = time.monotonic() - start
                last = (last + chunk)[-_LAST:]
                if output is not None:
                    output.write(chunk)
            # Usage of this child alone, which subprocess does not report.
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            late.cancel()
            process.stdout.close()
            with contextlib.suppress(OSError):
                process.kill()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _LAST))
        told = errors.read()
    return Run(
        seconds,
        first or seconds,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss,
        lines,
        process.returncode,
        _last_line(last),
        _last_line(told),
    )


def progress(number: int, rounds: int, name: str) -> str:
    """Get a line that says what runs, to be overwritten; without a *name*, one that clears it."""
    what = f"round {number} of {rounds}: {name}" if number else f"warming up: {name}"
    return "\r\033[K" + (what if name else "")


def _last_line(data: bytes) -> str:
    lines = data.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
