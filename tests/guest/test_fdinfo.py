# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/PID/fdinfo/N`` on the running kernel: locks, and files in many states."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drgn import Program

from drgn_sockets.kernel.lost import unbroken
from drgn_sockets.kernel.task import Tasks
from drgn_sockets.records.fd import FdReader, FdRecord
from drgn_sockets.records.kinds import kind_of
from drgn_sockets.records.locks import lock_words, locks_of
from drgn_sockets.views.procfs.fdinfo import fdinfo
from drgn_sockets.views.procfs.moments import TOLERANCE_S, How, fd_how

from . import files_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, dict[str, Any]]]:
    with files_zoo.opened(tmp_path_factory.mktemp("zoo")) as found:
        yield found


def records(prog: Program, pid: int) -> dict[int, FdRecord]:
    tables = [table for table in Tasks(prog).tables() if table.pid == pid]
    return {r.fd: r for r in FdReader(prog).read(tables) if r.fd is not None}


def seconds(line: bytes) -> float:
    whole, nsec = re.findall(rb"\d+", line)
    return int(whole) + int(nsec) / 1e9


def same(kind: str, expected: bytes, text: bytes) -> bool:
    theirs, ours = (t.splitlines(keepends=True) for t in (expected, text))
    if len(theirs) != len(ours):
        return False
    for a, b in zip(theirs, ours):
        how = fd_how(kind, a.partition(b":")[0].decode())
        if how is How.DOWN:
            if abs(seconds(a) - seconds(b)) > TOLERANCE_S:
                return False
        elif a != b:
            return False
    return True


def test_the_same_bytes(prog: Program, zoo: tuple[int, dict[str, Any]]) -> None:
    pid, said = zoo
    print("lacking:", said["lacking"])
    wrong, lines = [], 0
    no_types = not _has_type(prog, "struct tun_file")
    for fd, record in records(prog, pid).items():
        assert record.file is not None
        expected = Path(f"/proc/{pid}/fdinfo/{fd}").read_bytes()
        kind = kind_of(prog, record.file.op)
        name = kind.name if kind is not None else record.file.kind
        if name == "tun" and no_types:
            with pytest.raises(LookupError, match="types of modules"):
                list(fdinfo(record))
            continue
        text = b"".join(fdinfo(record))
        lines += text.count(b"\n")
        if not same(name, expected, text):
            wrong.append(f"{fd} {name}\n{expected.decode()}\n{text.decode()}")
    assert not wrong, "\n".join(wrong)
    assert lines > 400
    for name in ("flock", "epoll", "inotify", "ptmx 0", "lease read"):
        assert any(known.startswith(name) for known in said["fds"]), name


def _has_type(prog: Program, name: str) -> bool:
    try:
        prog.type(name)
    except LookupError:
        return False
    return True


def test_locks_in_words(prog: Program, zoo: tuple[int, dict[str, Any]]) -> None:
    """As they were taken."""
    pid, said = zoo
    found: dict[str, list[list[str]]] = {}
    by_fd = records(prog, pid)
    for name, fd in said["fds"].items():
        words = [lock_words(lock) for lock in unbroken(locks_of(by_fd[fd]))]
        found.setdefault(re.sub(r" \d+$", "", name), []).append(words)
    assert found["flock"] == [["flock write"]]
    assert found["flock shared"] == [["flock read"], ["flock read"], []]
    assert found["flock dup"] == [["flock read"]]
    assert found["flock dir"] == [["flock read"]]
    # In the order of their bytes.
    assert found["posix"] == [
        ["posix read 3-7", "posix write 100-109", f"posix read {1 << 40}-"],
        [],
    ]
    assert found["ofd"][0][0] == "flock write"
    assert set(found["ofd"][0]) == {
        "flock write",
        "ofd write 0-0",
        "ofd read 7-",
        "posix write 2-2",
    }
    assert found["child's"] == [[]]
    assert found["lease read"] == [["lease read"]]
    assert found["lease write"] == [["lease write"]]
    assert found["lease broken"] == [["lease unlck breaking"]]
    assert found["lease downgraded"] == [["lease read breaking"]]


def test_a_lock_of_a_child_is_the_childs(prog: Program, zoo: tuple[int, dict[str, Any]]) -> None:
    _, said = zoo
    [fd] = [fd for name, fd in said["fds"].items() if name.startswith("child's")]
    child = said["children"][0]
    text = Path(f"/proc/{child}/fdinfo/{fd}").read_bytes()
    assert b"lock:" in text
    assert b"".join(fdinfo(records(prog, child)[fd])) == text


def test_pids_of_nested_namespaces(prog: Program, zoo: tuple[int, dict[str, Any]]) -> None:
    pid, said = zoo
    texts = {
        name: Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
        for name, fd in said["fds"].items()
        if name.startswith("pidfd")
    }
    assert "Pid:\t-1\n" in texts["pidfd gone"]
    deepest = max(len(text.splitlines()[-1].split("\t")) for text in texts.values())
    assert deepest == 4, "name, and three numbers"
