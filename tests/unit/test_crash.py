# SPDX-License-Identifier: LGPL-2.1-or-later
"""vm.crash: which crash is compared with, and whether it has done its work."""

from __future__ import annotations

from pathlib import Path

import pytest

from vm import apt, crash
from vm.errors import VmError

FILES = b"""\
PID: 0        TASK: ffffffff9b01aa40  CPU: 0    COMMAND: "swapper/0"
ROOT: /    CWD: /
No open files

PID: 135      TASK: ff2ff4b102624180  CPU: 0    COMMAND: "ds-bench"
ROOT: /    CWD: /tmp/drgn-sockets/bench
 FD       FILE            DENTRY           INODE       TYPE PATH
  0 ff2ff4b101bb8200 ff2ff4b1020b5240 ff2ff4b12a1c6860 CHR  /dev/null
  3 ff2ff4b1291f9f00 ff2ff4b1020ca480 ff2ff4b102131b80 FIFO \n\
79999 ff2ff4b1291f9f00 ff2ff4b1020ca480 ff2ff4b102131b80 SOCK UNIX:STREAM
"""

SOCKETS = b"""\
PID: 135      TASK: ff2ff4b102624180  CPU: 0    COMMAND: "ds-bench"
FD      SOCKET            SOCK       FAMILY:TYPE SOURCE-PORT DESTINATION-PORT
 3 ff2ff4b10de98d00 ff2ff4b10281dc00 UNIX:STREAM \n\
 5 ff2ff4b102201a00 ff2ff4b102b26c00 INET:STREAM  127.0.0.1-35396 127.0.1.1-35719
79999 ff2ff4b113edd6c0 ff2ff4b11400c400 INET6:DGRAM  ::-0 ::-0
"""


def test_lines_that_count() -> None:
    assert crash.files_in(FILES.splitlines()) == 3
    assert crash.sockets_in(SOCKETS.splitlines()) == 3
    # Neither is taken for the other, nor is a failure for either.
    assert crash.files_in(SOCKETS.splitlines()) == crash.sockets_in(FILES.splitlines()) == 0
    assert crash.files_in([b"files: invalid task", b""]) == 0


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("\ncrash 9.0.2\nCopyright (C) 2002-2026  Red Hat, Inc.\n", "9.0.2"),
        ("crash 8.0.2++\n", "8.0.2"),
        ("crash: cannot open shared object\n", None),
        ("", None),
    ],
)
def test_version(text: str, version: str | None) -> None:
    assert crash.version_in(text) == version


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # What is installed here has no say.
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def program(path: Path, version: str) -> Path:
    """Something that says it is crash of that version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho crash {version}\n")
    path.chmod(0o755)
    return path


def tree(tmp_path: Path, version: str) -> Path:
    """An unpacked crash of sid's, or rather a loader that says so."""
    where = tmp_path / "cache/drgn-sockets/crash" / version
    return program(where / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", version)


def test_a_new_one_here_is_used(tmp_path: Path) -> None:
    here = program(tmp_path / "bin/crash", "10.0.1")
    tree(tmp_path, "9.0.2")
    assert crash.get() == crash.Crash((str(here),), "10.0.1")


def test_an_old_one_here_is_not(tmp_path: Path) -> None:
    program(tmp_path / "bin/crash", "8.0.2++")
    for version in ("9.0.10", "9.0.9"):
        loader = tree(tmp_path, version)
    found = crash.get()
    assert found.version == "9.0.10"
    # Run by its own loader, with its own libraries.
    loader = tmp_path / "cache/drgn-sockets/crash/9.0.10/usr/lib/x86_64-linux-gnu"
    assert found.argv == (
        str(loader / "ld-linux-x86-64.so.2"),
        "--library-path",
        str(loader),
        str(tmp_path / "cache/drgn-sockets/crash/9.0.10/usr/bin/crash"),
    )


def test_one_that_does_not_run_is_told(tmp_path: Path) -> None:
    tree(tmp_path, "9.0.2").write_text("#!/bin/sh\nexit 127\n")
    with pytest.raises(VmError, match=r"does not run here: remove .*/crash/9\.0\.2 to try again"):
        crash.get()


def test_what_apt_would_install() -> None:
    text = (
        "The following NEW packages will be installed:\n  crash zlib1g\n"
        "Inst libc6 (2.43-7 Debian:unstable [amd64]) []\n"
        "Inst zlib1g [1:1.2] (1:1.3.dfsg+really1.3.2-4 Debian:unstable [amd64])\n"
        "Inst crash (9.0.2+~16.3-1 Debian:unstable [amd64])\n"
        "Conf crash (9.0.2+~16.3-1 Debian:unstable [amd64])\n"
    )
    assert apt.installs(text) == [
        "libc6=2.43-7",
        "zlib1g=1:1.3.dfsg+really1.3.2-4",
        "crash=9.0.2+~16.3-1",
    ]
