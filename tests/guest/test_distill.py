# SPDX-License-Identifier: LGPL-2.1-or-later
"""A core distilled from the running kernel, against what procfs said just before."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from drgn import Program

from drgn_sockets.cli import make_parser
from drgn_sockets.target import open_target
from vm.kdump_pages import Kdump
from vm.workloads import control

from . import truth
from .conftest import ACCOUNTS


def save_proc(to: Path) -> int:
    """Save of ``/proc`` what ``check`` compares, but for this process; how many fds."""
    fds = 0
    (to / "net").mkdir(parents=True)
    for name in truth.NET_FILES:
        with contextlib.suppress(FileNotFoundError):
            (to / "net" / name).write_bytes(Path("/proc/net", name).read_bytes())
    (to / "uptime").write_bytes(Path("/proc/uptime").read_bytes())
    for pid in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208
        if int(pid) == os.getpid():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for kind in ("fd", "fdinfo"):
                (to / pid / kind).mkdir(parents=True)
            for fd, link in truth.links(pid).items():
                os.symlink(link, os.fsencode(to / pid / "fd" / str(fd)))  # noqa: PTH211
            # A link that is too long to be read has this only.
            for fd_name in os.listdir(f"/proc/{pid}/fdinfo"):  # noqa: PTH208
                info = Path(f"/proc/{pid}/fdinfo/{fd_name}").read_bytes()
                (to / pid / "fdinfo" / fd_name).write_bytes(info)
                fds += 1
    return fds


def due(saved: Path, within_s: float) -> set[str]:
    """Both ends of the TCP sockets that a timer changes, by itself, in that time."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in (saved / "net" / name).read_text().splitlines()[1:]:
            _, local, rem, _, _, timer, *_ = line.split()
            kind, _, left = timer.partition(":")
            if kind != "00" and int(left, 16) / 100 <= within_s:
                found.add(f"{local} {rem}")
    return found


# On the kernel whose guest has the least else to do.
@pytest.mark.ours("7.2")
def test_distill(prog: Program, accounts: dict[str, Any], tmp_path: Path) -> None:
    core, saved = tmp_path / "core", tmp_path / "proc"
    # Traffic would change what was saved.
    control.freeze(ACCOUNTS, settle=1)
    try:
        started = time.monotonic()
        fds = save_proc(saved)
        assert fds > 500
        truth.ours(prog, f"distill -o {core}")
        # The kernel's own processes come and go: one that did was in procfs and may not be
        # in the core.
        for pid in filter(str.isdecimal, os.listdir(saved)):  # noqa: PTH208
            if not Path("/proc", pid).exists():
                shutil.rmtree(saved / pid)
        took_s = time.monotonic() - started
    finally:
        control.thaw(ACCOUNTS)
    assert core.stat().st_size <= 6 << 20

    distilled = open_target(make_parser().parse_args(["-c", str(core), "ss"]))
    told = truth.ours(distilled, f"check --procfs {saved}").splitlines()
    rows, mismatches = int(told[-1].split()[0]), int(told[-1].split()[-2])
    # A guest takes a while to distill: TIME-WAIT ends, segments are sent once more, and timers go
    # on between the clock and them.
    changed = due(saved, took_s)
    ends = re.compile(r"net/tcp6? of netns \d+ +(\S+ \S+) inode ")
    timer = re.compile(r"\d+/fd +\d+ +it_value ")
    # One that goes to TIME-WAIT has another place in its chain.
    order = re.compile(r"net/tcp6? of netns \d+ +row \d+ of those in all looks +order ")
    wrong = [
        line
        for line in told[1 : mismatches + 1]
        if not timer.match(line)
        and not ((m := ends.match(line)) and m[1] in changed)
        and not (changed and order.match(line))
    ]
    assert not wrong, "\n".join(wrong)
    assert rows > fds + 200

    # Each is found by what the workload knows of it.
    end = accounts["unix_fork"]["connections"][0]["client"]
    found = truth.ours_json(distilled, f"peer {end['pid']}:{end['fd']}")
    assert [row["end"] for row in found] == ["self", "peer", "listener"]
    memory = Kdump(core)
    secrets = accounts["payload"]["secrets"]
    assert [s["place"] for s in secrets if memory.holds(s["token"].encode())] == []
