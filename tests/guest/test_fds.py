# SPDX-License-Identifier: LGPL-2.1-or-later
"""What processes have open and mapped on the running kernel, by path, against procfs."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drgn import Program

from .truth import ours_json

PAGE = os.sysconf("SC_PAGESIZE")


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A directory of an overlay, with a program in it, as a container has."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    sleep = shutil.which("sleep")
    assert sleep is not None
    shutil.copy(sleep, tmp_path / "lower" / "ours")
    layers = "lowerdir=lower,upperdir=upper,workdir=work"
    subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", layers, "merged"], cwd=tmp_path, check=True
    )
    yield tmp_path / "merged"
    subprocess.run(["umount", tmp_path / "merged"], check=True)


def maps(pid: int) -> list[tuple[str, int, str, int, int, str]]:
    """``/proc/PID/maps``: name, inode, device, pages, offset, access of mappings of files."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, access, offset, device, inode, *name = line.split(maxsplit=5)
        if inode == "0":
            continue
        start, end = (int(address, 16) for address in addresses.split("-"))
        major, minor = (int(number, 16) for number in device.split(":"))
        place = f"{major}:{minor}"
        pages = (end - start) // PAGE
        found.append((name[0], int(inode), place, pages, int(offset, 16), access[:3]))
    return found


def test_what_is_mapped_of_an_overlay(prog: Program, overlay: Path) -> None:
    """It is a file below the overlay's: name, inode and device are those of the overlay."""
    process = subprocess.Popen([overlay / "ours", "1000"], cwd=overlay)
    try:
        pid = process.pid
        while os.readlink(f"/proc/{pid}/exe") != str(overlay / "ours"):  # noqa: PTH115
            pass
        # Until it has all that it maps, and sleeps.
        before = None
        while (now := maps(pid)) != before:
            before = now
            time.sleep(0.5)
        rows = ours_json(prog, f"fds {pid} --maps --output all")
        by_fd = {row["fd"]: row["name"] for row in rows}
        assert by_fd["cwd"] == str(overlay)
        assert by_fd["txt"] == str(overlay / "ours")
        assert [
            (r["name"], r["ino"], r["dev"], r["maplen"], r["pos"], r["xmode"][:3])
            for r in rows
            if r["fd"] == "mem"
        ] == maps(pid)
        holders = ours_json(prog, f"fds {overlay}/ours --output all")
        # Older kernels show the inode below of what is mapped: another file.
        status = (overlay / "ours").stat()
        here = (status.st_ino, f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}")
        exact = [row for row in holders if (row["ino"], row["dev"]) == here]
        assert [(row["pid"], row["fd"]) for row in exact] == [(pid, "txt")]
        assert {row["pid"] for row in holders} == {pid}
    finally:
        process.kill()
        process.wait()


def test_a_file_by_all_its_names(prog: Program, tmp_path: Path) -> None:
    one, other, gone = (tmp_path / name for name in ("one", "other", "gone"))
    with one.open("w") as file, gone.open("w") as lost:
        os.link(one, other)
        gone.unlink()
        here = (os.getpid(), file.fileno(), str(one))
        for path in (one, other):
            rows = ours_json(prog, f"fds {path}")
            assert [(row["pid"], row["fd"], row["name"]) for row in rows] == [here]
        rows = ours_json(prog, f"fds {gone}")
        assert [(row["pid"], row["fd"]) for row in rows] == [(os.getpid(), lost.fileno())]
        # Another file takes its name: both are shown.
        with gone.open("w") as new:
            found = {row["fd"]: row["name"] for row in ours_json(prog, f"fds {gone}")}
            assert found == {lost.fileno(): f"{gone} (deleted)", new.fileno(): str(gone)}
