# SPDX-License-Identifier: LGPL-2.1-or-later
"""``core-info`` against what procfs and the recording say of the machine."""

from __future__ import annotations

import calendar
import json
import re
import time
from pathlib import Path
from typing import Any

from .machine import Core, Done, one_line, spawn


def facts(done: Done) -> dict[str, str]:
    """What its lines say."""
    return dict(line.split(": ", 1) for line in done.out.splitlines())


def test_as_procfs_says(core: Core) -> None:
    done = core.run("core-info")
    assert (done.status, done.err) == (0, "")
    found = facts(done)
    oracle, manifest = core.oracle, core.manifest
    assert found["release"] == manifest["kernel"]
    assert found["version"] == (oracle / "version").read_text().rstrip("\n")
    processes = [p for p in oracle.glob("[0-9]*") if (p / "stat").exists()]
    there = len(processes) - len(core.ended) + len(core.begun)
    # The process that saved procfs ended, and is left out of what it saved.
    assert abs(int(found["tasks"].split()[0]) - there) <= 3
    # A socket may hold one that procfs shows nowhere.
    assert 0 <= int(found["net_namespaces"]) - len(manifest["netns"]) <= 1
    modules = (oracle / "modules").read_text().splitlines()
    assert int(found["modules"].split(",")[0]) == len(modules)
    assert ("without types" in found["modules"]) == (core.kernel.startswith("5.10"))
    memory = dict(line.split(":") for line in (oracle / "meminfo").read_text().splitlines())
    assert int(found["memory"]) == int(memory["MemTotal"].split()[0]) * 1024
    lines = (oracle / "stat").read_text().splitlines()
    cpus = sum(line.startswith("cpu") and line[3] != " " for line in lines)
    assert found["processors"] == f"{cpus} online of {cpus}"
    uptime = float((oracle / "uptime").read_text().split()[0])
    assert 0 <= int(found["uptime_s"]) + 1 - uptime < 120
    at = calendar.timegm(time.strptime(found["time"], "%Y-%m-%dT%H:%M:%SZ"))
    assert abs(at - manifest["finished"]) < 120
    assert found["panic"] == "none: a snapshot of a running kernel"
    assert (found["crashed"], found["taints"]) == ("-", "none")
    assert found["machine"] == "x86_64" and found["architecture"] == "x86_64, pages of 4096 bytes"


def test_formats(both: tuple[Core, Core]) -> None:
    """What the kernel says is the same."""
    elf, other = (json.loads(core.run("core-info", "--json").out) for core in both)
    of_file = {"file", "format", "size", "dump_level", "missing", "written"}
    for name in elf.keys() - of_file:
        assert elf[name] == other[name], name
    assert elf["format"] == "ELF" and elf["missing"] == "nothing"
    assert other["format"].startswith("kdump") and "zlib" in other["format"]
    assert elf["unknown"] == other["unknown"] == {}


def cut(core: Core, path: Path, size: int) -> dict[str, Any]:
    with core.path.open("rb") as whole, path.open("wb") as file:
        file.write(whole.read(size))
    done = spawn("-c", str(path), *core.symbols, "core-info", "--json")
    assert done.returncode == 1
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_file_that_was_cut_short(one: Core, tmp_path: Path) -> None:
    """The headers are there, and the rest is not."""
    found = cut(one, tmp_path / "core", 1 << 16)
    # What follows the last segment is no memory.
    whole = int(re.sub(r".* of ([\d,]+) bytes", r"\1", found["missing"]).replace(",", ""))
    assert found["missing"].startswith(f"cut short: {1 << 16:,} of ")
    assert 0 <= one.path.stat().st_size - whole < 64
    assert found["release"] == one.manifest["kernel"]
    assert found["architecture"] == "x86_64, pages of 4096 bytes"
    assert {"tasks", "panic", "types", "hostname"} <= found["unknown"].keys()
    assert found["tasks"] is None
    # Not even all of the header.
    found = cut(one, tmp_path / "core", 40)
    assert found["missing"] == "cut short within its header"
    assert found["release"] is None and found["size"] == 40


def test_lines_of_what_is_not_known(one: Core, tmp_path: Path) -> None:
    path = tmp_path / "core"
    with one.path.open("rb") as whole:
        path.write_bytes(whole.read(1 << 16))
    done = spawn("-c", str(path), *one.symbols, "core-info", "--output=release,tasks")
    release, tasks = done.stdout.decode().splitlines()
    assert release == f"release: {one.manifest['kernel']}"
    assert tasks.startswith("tasks: unknown, because ")
    assert done.stderr.count(b"\n") == 1 and b"Traceback" not in done.stderr


def test_no_core(one: Core, tmp_path: Path) -> None:
    one_line(spawn("-c", str(tmp_path / "none"), "core-info"), "no such core")
    (tmp_path / "text").write_text("hello\n" * 1000)
    one_line(spawn("-c", str(tmp_path / "text"), "core-info"), "is not a core")
    one_line(one.run("core-info", "--output", "tsks"), "did you mean 'tasks'")
