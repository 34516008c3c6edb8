# SPDX-License-Identifier: LGPL-2.1-or-later
"""A core that is open, on which commands are run in children: with faults, and without."""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from pathlib import Path

from drgn_sockets.target.recorder import Recorder

from . import outcome
from .commands import TRACEBACK, Run, opened, run_here
from .faults import plant
from .files import of_elf, of_kdump
from .outcome import Done

#: Seconds of processor time that a command may take; of the sound core it takes a tenth.
_SECONDS = {"distill": 40}
_USUAL_SECONDS = 6
_PAGE = 4096


class Bed:
    """
    A core that is open.

    :param place: A directory for what is written.
    """

    def __init__(self, core: Path, options: tuple[str, ...], place: Path) -> None:
        self.place = place
        self.prog = opened(core, *options)
        self.files = {file.form: file for file in (of_kdump(core), of_elf(self.prog, core))}
        self._recorder = Recorder(self.prog, "TORTURE=1")

    def where(self, address: int) -> int:
        """Where an address is in physical memory."""
        return self._recorder._frame(address // _PAGE) * _PAGE + address % _PAGE

    def run(self, run: Run, spec: str | None) -> Done:
        """Run a command in a child, with a fault or without."""
        out, err = (os.memfd_create(name) for name in ("out", "err"))
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pid = os.fork()
        if not pid:
            status = TRACEBACK
            try:
                self._limit(run, out, err)
                status = self._run(run.words(self.place), spec)
                sys.stdout.flush()
                sys.stderr.flush()
            except MemoryError:
                os.write(2, b"MemoryError\n")
            except BaseException:
                # One of ours: a command's own are told by run_here().
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        _, ended, usage = os.wait4(pid, 0)
        texts = []
        for fd in (out, err):
            size = os.lseek(fd, 0, os.SEEK_END)
            texts.append(os.pread(fd, size, 0).decode(errors="backslashreplace"))
            os.close(fd)
        return Done(
            os.waitstatus_to_exitcode(ended),
            texts[0],
            texts[1],
            max(0, usage.ru_maxrss - base) << 10,
            usage.ru_utime + usage.ru_stime,
        )

    def _limit(self, run: Run, out: int, err: int) -> None:
        seconds = _SECONDS.get(run.name, _USUAL_SECONDS)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20 * seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = size + outcome.LIMIT + (outcome.LIMIT >> 2)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def _run(self, argv: tuple[str, ...], spec: str | None) -> int:
        if spec is None:
            return run_here(self.prog, argv)
        form, _, what = spec.partition(":")
        if not what:
            plant(self.prog, spec, self.where)
            return run_here(self.prog, argv)
        path = self.place / f"core-{os.getpid()}"
        path.write_bytes(self.files[form].damaged(what))
        try:
            return run_here(None, ("-c", str(path), "--types", "btf", *argv))
        finally:
            path.unlink()
