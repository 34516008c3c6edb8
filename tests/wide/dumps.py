# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Cores as people have them, each as its maker wrote it: ``docs/dumps.md``.

A core is made in one situation (a kernel, a machine, a way to dump), and asked with each command.
What is expected comes from what procfs and ss said in the guest just before.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vm import dump, foreign, kernels, panic
from vm.errors import VmError

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "dumps.md"

#: A command takes longer only if it hangs.
_SECONDS = 120

COLUMNS = ("opens", "fds", "ss", "peer", "tcp", "check --procfs", "distill", "seconds", "measured")

_TITLE = """# Cores that were tried

Written by `make test-wide PARTS=dumps`. Each core is as its maker wrote it: QEMU
(`dump-guest-memory`), or makedumpfile, in the crash kernel of a guest that panicked or, in the last
table, on a plain copy of its `/proc/vmcore`. `python -m vm dump` makes them (`vm/README.md`). Types
and symbols are out of the core, but for 5.10 (System.map). What is expected was saved in the guest
just before:

- *fds*: descriptors whose name is that of `/proc/PID/fd`, of all;
- *ss*: inodes of sockets in `/proc/net/{tcp,tcp6,udp,udp6,unix}` that `ss -a` has, of all;
- *peer*, *tcp*: pairs that ss told of, which `peer` and `tcp` tell, too;
- *check --procfs*: mismatches, of the fields that were compared;
- *distill*: the size of the distilled core, and the mismatches in it;
- *seconds*: all of these commands.
"""


class Situation(NamedTuple):
    """A core, and how it comes to be."""

    group: str
    name: str
    #: Arguments of :func:`vm.panic.cached` or, with ``format``, of :func:`vm.dump.cached`.
    machine: Mapping[str, Any]
    #: Options of makedumpfile, which runs on this machine.
    options: tuple[str, ...] = ()


_NUMA = (
    *("-object", "memory-backend-ram,id=m0,size=512M", "-numa", "node,memdev=m0,cpus=0"),
    *("-object", "memory-backend-ram,id=m1,size=512M", "-numa", "node,memdev=m1,cpus=1"),
)
_COPY = {"kernel": "6.12", "how": panic.COPY}
#: A guest without QEMU's vmcoreinfo device.
_BARE = {"kernel": "6.12", "vmcoreinfo": False, "formats": tuple(dump.FORMATS)}
_LEVELS = (0, 1, 2, 4, 8, 16, 31)

SITUATIONS = (
    *(
        Situation("QEMU", f"{series.name}, {what}", {"kernel": series.name, "format": format_})
        for series in kernels.SERIES
        for format_, what in (("elf", "ELF"), ("kdump", "kdump-zlib, flattened"))
    ),
    *(
        Situation("QEMU", f"6.12, {what}, no VMCOREINFO", {**_BARE, "format": format_})
        for format_, what in (
            ("elf", "ELF"),
            ("paging", "ELF with paging"),
            ("kdump", "kdump-zlib, flattened"),
        )
    ),
    Situation("panic", "6.12, makedumpfile -l -d 31", {"kernel": "6.12"}),
    Situation("panic", "6.12, makedumpfile -E -d 31 (ELF)", {"kernel": "6.12", "how": panic.ELF}),
    Situation("panic", "6.12, plain copy", _COPY),
    *(
        Situation("kernels", f"{name}, {suite}", {"package": f"{name}/{suite}"})
        for suite in ("bookworm", "trixie")
        for name in ("linux-image-amd64", "linux-image-rt-amd64")
    ),
    *(
        Situation("machines", name, {"kernel": "6.12", **settings})
        for name, settings in (
            ("nokaslr", {"append": "nokaslr"}),
            ("q35", {"arguments": ("-M", "q35")}),
            ("8 CPUs", {"cpus": 8}),
            ("2 NUMA nodes", {"arguments": _NUMA}),
            ("5 GiB", {"memory": "5G"}),
            ("page tables of 4 levels", {"arguments": ("-cpu", "max,-cx16,-la57")}),
            ("page tables of 5 levels", {"arguments": ("-cpu", "max,-cx16,+la57")}),
        )
    ),
    *(
        Situation("makedumpfile", " ".join(options), _COPY, options)
        for options in (
            *(("-l", "-d", str(level)) for level in _LEVELS),
            *((letter, "-d", "31") for letter in ("-c", "-z", "-p")),
            *(("-E", "-d", str(level)) for level in (0, 1, 31)),
            *(("-F", letter, "-d", "31") for letter in ("-c", "-l", "-z")),
            ("-F", "-E", "-d", "31"),
            ("--split", "-l", "-d", "31"),
        )
    ),
)


class Made(NamedTuple):
    """Files of a core; several if it is split."""

    cores: list[Path]
    oracle: Path
    system_map: Path | None


def make(situation: Situation, place: Path) -> Made:
    """Make a core, or take it from the cache."""
    settings = dict(situation.machine)
    if "package" in settings:
        settings["kernel"] = kernels.package(settings.pop("package"))
    if "format" in settings:
        format_ = settings.pop("format")
        recorded = dump.cached(**settings)
        core = getattr(recorded, format_)
        assert core is not None and recorded.oracle is not None
        # The System.map is looked for where VMCOREINFO does not say that it is not needed.
        system_map = recorded.system_map if settings.get("vmcoreinfo", True) else None
        return Made([core], recorded.oracle, system_map)
    crashed = panic.cached(**settings)
    assert crashed.oracle is not None
    if not situation.options:
        return Made([crashed.core], crashed.oracle, None)
    cores = [place / "core"]
    if "--split" in situation.options:
        cores.append(place / "core-2")
    options = [*situation.options, str(crashed.core)]
    if "-F" in options:
        with cores[0].open("wb") as out:
            out.write(foreign.MAKEDUMPFILE.run(options))
    else:
        foreign.MAKEDUMPFILE.run([*options, *map(str, cores)])
    return Made(cores, crashed.oracle, None)


class _Asked:
    """A core that is asked."""

    def __init__(self, made: Made) -> None:
        # Of a split one, a part alone.
        self.options = ["-c", str(made.cores[0])]
        if made.system_map is not None:
            self.options += ["--system-map", str(made.system_map)]
        self.seconds = 0.0

    def __call__(self, *argv: str) -> tuple[int, str, str]:
        start = time.monotonic()
        words = [sys.executable, "-m", "drgn_sockets", *self.options, *argv]
        try:
            done = subprocess.run(
                words, cwd=ROOT, capture_output=True, text=True, errors="surrogateescape",
                timeout=_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 124, "", f"longer than {_SECONDS} s"
        finally:
            self.seconds += time.monotonic() - start
        return done.returncode, done.stdout, done.stderr


def _fds(asked: _Asked, oracle: Path) -> str:
    _, out, _ = asked("fds", "--json", "--output", "pid,fd,name")
    rows = [json.loads(line) for line in out.splitlines()]
    names = {(row["pid"], str(row["fd"])): row["name"] for row in rows}
    said = {
        (int(link.parent.parent.name), link.name): str(link.readlink())
        for link in oracle.glob("[0-9]*/fd/*")
    }
    good = sum(names.get(key) == text or not text.isprintable() for key, text in said.items())
    return _of(good, len(said))


def _ss(asked: _Asked, oracle: Path) -> str:
    _, out, _ = asked("ss", "-a", "--csv", "--output", "ino")
    ours = {row["ino"] for row in csv.DictReader(io.StringIO(out))}
    said = set()
    for name, column in (("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("unix", 6)):
        for file in oracle.glob(f"netns/*/net/{name}"):
            for line in file.read_bytes().splitlines()[1:]:
                words = line.split()
                if len(words) > column and words[column].isdigit():
                    said.add(words[column].decode())
    # TIME-WAIT has none.
    said -= {"0"}
    return _of(len(said & ours), len(said))


def _peer(asked: _Asked, oracle: Path) -> str:
    text = (oracle / "tools" / "ss-all").read_text(errors="replace")
    #  u_str ESTAB 0 0 * 2510 * 2511 users:(("ds-unix_fork",pid=220,fd=5))
    pairs = re.findall(r"^u_str\s+ESTAB\s.*?\s(\d+)\s+\* (\d+)\s.*pid=(\d+),fd=(\d+)", text, re.M)
    good = 0
    chosen = [pair for pair in pairs if pair[1] != "0"][:5]
    for _, peer, pid, fd in chosen:
        _, out, _ = asked("peer", f"{pid}:{fd}", "--json")
        good += f'"ino": {peer}' in out or f"{peer}" in re.findall(r"\d+", out)
    return _of(good, len(chosen))


def _tcp(asked: _Asked, oracle: Path) -> str:
    text = (oracle / "tools" / "ss-all").read_text(errors="replace")
    rows = re.findall(
        r"^tcp\s+ESTAB\s+\d+\s+\d+\s+(\S+)\s+(\S+)\s.*?pid=(\d+),fd=(\d+)", text, re.M
    )
    good = 0
    chosen = rows[:2]
    for local, peer, pid, fd in chosen:
        _, out, _ = asked("tcp", f"{pid}:{fd}")
        good += local.rpartition(":")[2] in out and peer.rpartition(":")[2] in out
    return _of(good, len(chosen))


def _of(good: int, all_: int) -> str:
    text = f"{good} of {all_}"
    return text if good == all_ and all_ else f"**{text}**"


def _check(asked: _Asked, oracle: Path) -> str:
    status, out, err = asked("check", "--procfs", str(oracle))
    m = re.search(r"(\d+) fields compared.*?(\d+) mismatches", out)
    if m is None:
        return f"**{_last(err) or status}**"
    return f"{m[2]} of {m[1]}" if m[2] == "0" else f"**{m[2]} of {m[1]}**"


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("drgn-sockets: ").replace("|", "\\|") if lines else ""


def measure(situation: Situation) -> dict[str, str]:
    """The cells of a row."""
    with tempfile.TemporaryDirectory(prefix="drgn-sockets-dumps-") as name:
        place = Path(name)
        made = make(situation, place)
        asked = _Asked(made)
        status, _, err = asked("fds", "1")
        if status not in (0, 1):
            return {"opens": f"**no**: {_last(err)}", "seconds": f"{asked.seconds:.0f}"}
        row = {"opens": "yes", "fds": _fds(asked, made.oracle), "ss": _ss(asked, made.oracle)}
        row["peer"], row["tcp"] = _peer(asked, made.oracle), _tcp(asked, made.oracle)
        row["check --procfs"] = _check(asked, made.oracle)
        small = place / "small.kdump"
        _, _, err = asked("distill", "-o", str(small))
        if small.exists():
            again = _Asked(made._replace(cores=[small]))
            size = f"{small.stat().st_size / 1e6:.1f} MB"
            row["distill"] = f"{size}, {_check(again, made.oracle)}"
            asked.seconds += again.seconds
        else:
            row["distill"] = f"**{_last(err)}**"
        row["seconds"] = f"{asked.seconds:.0f}"
        return row


def known(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of the file."""
    rows = {}
    group = ""
    for line in text.splitlines():
        if line.startswith("## "):
            group = line[3:]
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == len(COLUMNS) + 1 and cells[0].startswith("`"):
            rows[group, cells[0].strip("`")] = dict(zip(COLUMNS, cells[1:]))
    return rows


def render(rows: Mapping[tuple[str, str], Mapping[str, str]]) -> str:
    """The file; a situation without a row is said to be not measured."""
    parts = [_TITLE.rstrip("\n")]
    for group in dict.fromkeys(s.group for s in SITUATIONS):
        lines = [f"## {group}", "", f"| core | {' | '.join(COLUMNS)} |"]
        lines.append(f"| --- {'| --- ' * len(COLUMNS)}|")
        for situation in SITUATIONS:
            if situation.group == group:
                row = rows.get((group, situation.name), {"opens": "not measured"})
                cells = [row.get(column, "") for column in COLUMNS]
                lines.append(f"| `{situation.name}` | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def run(commit: str, only: str = "") -> Iterator[tuple[str, str, bool, float]]:
    """
    Measure, and write the file after each row.

    :param only: a regular expression that groups and names have to match
    :return: what was measured, its row, whether all is well, and how long it took with making it
    """
    for situation in SITUATIONS:
        name = f"{situation.group}: {situation.name}"
        if not re.search(only, name):
            continue
        start = time.monotonic()
        try:
            row = measure(situation)
        except VmError as e:
            # It cannot be made here: Debian's makedumpfile has no snappy, say.
            row = {"opens": f"not made: {_last(str(e))}"}
        row["measured"] = commit
        rows = known(FILE.read_text()) if FILE.exists() else {}
        rows[situation.group, situation.name] = row
        FILE.write_text(render(rows))
        cells: Iterable[str] = (f"{column} {row.get(column, '-')}" for column in COLUMNS[:-1])
        good = row["opens"] == "yes" and not any("**" in cell for cell in row.values())
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        yield name, ", ".join(cells), good, time.monotonic() - start
