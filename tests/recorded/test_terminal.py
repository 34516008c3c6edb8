# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names that would act on a terminal or break a table: a line each, and only what prints."""

from __future__ import annotations

import json
import re
import unicodedata

from drgn import Program

from drgn_sockets.cli import make_parser
from drgn_sockets.target import open_target

from .machine import Core, run_on


def raw_controls(text: str) -> list[str]:
    return [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co")]


def test_nothing_raw_reaches_the_terminal(one: Core) -> None:
    """Processes, files and sockets whose workloads gave them newlines and escape sequences."""
    processes = [p for account in one.accounts.values() for p in account["processes"]]
    odd = [p for p in processes if raw_controls(p["comm"]) or "\n" in p["comm"]]
    entries = [(p, e) for p in processes if p["tid"] == p["pid"] for e in p["fds"]]
    files = [(p, e) for p, e in entries if e["name"] and raw_controls(e["name"])]
    sockets = [(p, e) for p, e in entries if raw_controls(e.get("path", "").strip("\0"))]
    assert len(odd) > 2 and len(files) > 2 and len(sockets) > 2
    pids = sorted({str(p["pid"]) for p, _ in files} | {str(p["pid"]) for p in odd})
    ends = [f"{p['pid']}:{e['fd']}" for p, e in sockets]
    for argv in (
        ("fds", *pids),
        ("fds", *pids, "--csv"),
        ("ss", "-xap"),
        ("ss", "-xa", "--csv"),
        ("peer", *ends),
    ):
        out = one.run(*argv).out
        assert not raw_controls(out), argv
        rows = one.run(*(word for word in argv if word != "--csv"), "--json").out
        assert out.count("\n") == rows.count("\n") + 1, argv
        # They are there.
        assert any(raw_controls(str(value)) for value in map(json.loads, rows.splitlines())) or (
            "\\u001b" in rows or "\\n" in rows
        )
    out = one.run("fds", *pids).out
    assert "\\n" in out and "\\x1b" in out
    assert not raw_controls(one.run("check", "--procfs", str(one.oracle), "--moved").out)


# What looks like a name in memory: a word with a NUL after it.
_NAME = re.compile(rb"[A-Za-z_][\w./-]{3,60}(?=\0)")


def hostile(one: Core) -> Program:
    """The core's kernel, in which all names end in what a terminal acts on."""
    prog = open_target(make_parser().parse_args([*one.target, "ss"]))

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        data: bytes = one.prog.read(address, count)
        return _NAME.sub(lambda match: match[0][:-3] + b"\x1b\x9b\x7f", data)

    prog.add_memory_segment(0, (1 << 64) - 1, read)
    return prog


def test_every_name_of_the_machine(one: Core) -> None:
    """Of devices, protocols, file systems, modules, commands, files: whatever commands print."""
    prog = hostile(one)
    end = one.accounts["tcp_echo"]["connections"][0]["client"]
    for argv in (
        ("fds", "--all", "--output", "all"),
        ("fds", "--lsof"),
        ("fds", "--csv=spreadsheet"),
        ("fds", "no\x1bone"),
        ("ss", "-a", "--output", "all"),
        ("ss", "-atuxwiemop"),
        ("peer", f"{end['pid']}:{end['fd']}"),
        ("procfs", "net/unix", "net/protocols", "1/status", "1/stat", "--csv"),
        ("check", "--procfs", str(one.oracle), "--moved"),
    ):
        done = run_on(prog, *argv)
        assert not raw_controls(done.out + done.err), argv
        assert "\\x1b\\x9b\\x7f" in done.out or "\\x1b" in done.err, argv
