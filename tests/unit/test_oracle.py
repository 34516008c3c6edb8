# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is the oracle's tree what procfs says?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vm import oracle

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other processes' fds need root")


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a file with an odd name and one with a path too long."""
    code = """
import os, sys
os.chdir(sys.argv[1])
os.open(b"odd\\n\\xff", os.O_RDWR | os.O_CREAT)
for _ in range(18):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
os.dup2(os.open("deep", os.O_RDWR | os.O_CREAT), 77)
os.write(77, b"12345")
print("ready", flush=True)
sys.stdin.read()
"""
    work = tmp_path / "work"
    work.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(work)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def collect(target: Path, *options: str) -> dict[str, Any]:
    arguments = [str(target), "--tools", "none", *options]
    return oracle.collect(oracle.parser().parse_args(arguments))


@needs_root
def test_tree_is_laid_out_as_proc(tmp_path: Path, subject: subprocess.Popen[bytes]) -> None:
    target = tmp_path / "oracle"
    manifest = collect(target)
    copy, real = target / str(subject.pid), Path(f"/proc/{subject.pid}")
    for name in ("comm", "cmdline", "cgroup", "limits"):
        assert (copy / name).read_bytes() == (real / name).read_bytes()
    for name in ("cwd", "exe", "root", "ns/net", "ns/mnt"):
        if name == "cwd":
            # Longer than a page: procfs itself cannot say.
            continue
        assert (copy / name).readlink() == (real / name).readlink()
    odd = [fd for fd in (real / "fd").iterdir() if fd.name != "77"]
    for fd in odd:
        try:
            link = os.readlink(bytes(fd))  # noqa: PTH115
        except OSError:
            continue
        assert os.readlink(bytes(copy / "fd" / fd.name)) == link  # noqa: PTH115
        assert (copy / "fdinfo" / fd.name).read_bytes() == (real / "fdinfo" / fd.name).read_bytes()
    assert b"pos:\t5\n" in (copy / "fdinfo" / "77").read_bytes()
    assert json.loads((copy / "fd.json").read_text())["77"] == {"error": "ENAMETOOLONG"}
    inode = (real / "ns/net").stat().st_ino
    assert (copy / "net" / "unix").read_bytes().startswith(b"Num ")
    assert (target / "net").readlink() == Path(f"netns/{inode}/net")
    assert not (target / str(os.getpid())).exists(), "it left itself in"
    release = (target / "sys/kernel/osrelease").read_text().strip()
    assert release == manifest["kernel"] == os.uname().release
    assert json.loads((target / "manifest.json").read_text())["counts"] == manifest["counts"]


@needs_root
def test_packed_has_the_same(tmp_path: Path, subject: subprocess.Popen[bytes]) -> None:
    collect(tmp_path / "plain")
    collect(tmp_path / "packed", "--pack-above", "0")
    plain = tmp_path / "plain" / str(subject.pid)
    lines = (tmp_path / "packed" / str(subject.pid) / "fds.jsonl").read_text().splitlines()
    rows = {row["fd"]: row for row in map(json.loads, lines)}
    names = {int(fd.name) for fd in (plain / "fd").iterdir()} | {
        int(fd) for fd in json.loads((plain / "fd.json").read_text())
    }
    assert set(rows) == names
    for fd in (plain / "fd").iterdir():
        assert rows[int(fd.name)]["link"] == os.fsdecode(os.readlink(bytes(fd)))  # noqa: PTH115


@needs_root
def test_options_leave_out(tmp_path: Path, subject: subprocess.Popen[bytes]) -> None:
    manifest = collect(tmp_path / "one", "--no-fdinfo", "--exclude-pid", "1", "2")
    assert {1, 2} <= set(manifest["excluded"])
    assert not (tmp_path / "one" / "1").exists()
    assert not (tmp_path / "one" / str(subject.pid) / "fdinfo").exists()


def test_full_disk_is_not_a_process_that_has_gone(tmp_path: Path) -> None:
    with pytest.raises(oracle.CannotWriteError, match="cannot write x"), oracle.writing("x"):
        raise OSError(28, "No space left on device")
    with pytest.raises(oracle.CannotWriteError):
        oracle.write_at(None, str(tmp_path / "no" / "such"), b"")


def test_target_must_be_empty(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    done = subprocess.run(
        [sys.executable, "-m", "vm.oracle", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "is not empty" in done.stderr


def test_tool_that_hangs_is_ended(tmp_path: Path) -> None:
    options = oracle.parser().parse_args([str(tmp_path), "--tool-timeout", "0.2"])
    run = oracle.Oracle("/proc", str(tmp_path), options)
    run._run("sleep", ["sleep", "60"], str(tmp_path / "sleep"))
    assert run.tools[0]["error"] == "took longer than 0.2 s"


def test_lsfd_columns() -> None:
    columns = oracle.lsfd_columns()
    if not columns:
        pytest.skip("no lsfd here")
    assert {"PID", "FD", "NAME"} <= set(columns.split(","))
