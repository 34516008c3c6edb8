# SPDX-License-Identifier: LGPL-2.1-or-later
"""Do workloads start and stop, and is what they say of themselves so?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vm.workloads import ALL, STANDARD, control
from vm.workloads.account import Account, problems
from vm.workloads.process import Process, WorkloadError
from vm.workloads.verify import disagreements
from vm.workloads.wire import _sum

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="workloads need root")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vm.workloads", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    control.stop(tmp_path)


def start(directory: Path, *names: str) -> list[Account]:
    if control.WORK.is_dir() and any(control.WORK.iterdir()):
        pytest.skip(f"{control.WORK} is not empty: workloads may be running already")
    return list(control.start(names, directory, 60))


def test_list_has_a_line_on_each() -> None:
    done = run("list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(ALL)
    assert STANDARD[-1] == "tcp_states", "its states do not last"


def test_unknown_workload_is_one_clear_line(tmp_path: Path) -> None:
    done = run("start", "nonesuch", "--account", str(tmp_path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "nonesuch: no such workload" in done.stderr


@needs_root
def test_failure_shows_the_log(tmp_path: Path) -> None:
    done = run("start", "bench:many", "--account", str(tmp_path))
    assert done.returncode == 1
    assert "bench:many: not a number of pairs" in done.stderr
    assert not list(tmp_path.glob("*.json"))


def test_freeze_of_nothing_is_an_error(tmp_path: Path) -> None:
    done = run("freeze", "--account", str(tmp_path))
    assert done.returncode == 1
    assert "no workload" in done.stderr


# Some set up networks, mount things, or attach to the kernel, which is a guest's business and not
# this machine's: tests/recorded holds their accounts against everything else.
IN_GUESTS = (
    *("tcp_states", "netns", "packet_zoo", "kernel_sockets", "transports", "tipc"),
    *("fd_kinds", "processes"),
)
ON_THIS_MACHINE = [name for name in STANDARD if name not in IN_GUESTS]


@needs_root
@pytest.mark.parametrize("name", [*ON_THIS_MACHINE, "bench:50"])
def test_account_agrees_with_procfs(accounts: Path, name: str) -> None:
    (account,) = start(accounts, name)
    assert disagreements(account) == []
    control.freeze(accounts, 0.3)
    assert disagreements(account) == []
    stored = json.loads((accounts / f"{account['workload']}.json").read_text())
    assert stored == account
    pids = {process["pid"] for process in account["processes"]}
    assert control.thaw(accounts) == len(pids)
    assert control.stop(accounts) == len(pids)
    assert not any(control._state(pid) not in ("", "Z") for pid in pids)


@needs_root
def test_bench_counts(accounts: Path) -> None:
    (account,) = start(accounts, "bench:50")
    assert len(account["processes"]) == 2
    for process in account["processes"]:
        counts: dict[str, int] = {}
        for row in process["fd_ranges"]:
            counts[row["kind"]] = counts.get(row["kind"], 0) + row["count"]
            for fd in range(row["first"], row["first"] + row["count"]):
                link = (Path("/proc") / str(process["pid"]) / "fd" / str(fd)).readlink()
                assert str(link).startswith("socket:")
        assert counts == {"tcp pairs": 100, "unix pairs": 100}


def sample() -> dict[str, Any]:
    me = Process("test", Path("/nonexistent"), 1)
    me.hold(0, "char", "/dev/null")
    return dict(me.account())


def test_problems_of_a_good_account() -> None:
    assert problems(sample()) == []


@pytest.mark.parametrize("key", ["processes", "pid", "skipped"])
def test_problems_miss_nothing(key: str) -> None:
    account = sample()
    del account[key]
    assert any(key in line or "main process" in line for line in problems(account))


def test_problems_sees_an_end_that_leads_nowhere() -> None:
    account = sample()
    account["pairs"] = [{"a": {"pid": account["pid"], "fd": 0}, "b": {"pid": 1, "fd": 99}}]
    assert problems(account) == ["pairs: no fd 99 in process 1"]


def test_hold_describes_what_is_open(tmp_path: Path) -> None:
    me = Process("test", tmp_path, 1)
    name = b"\xff\n"
    path = os.fsencode(tmp_path) + b"/" + name
    fd = me.hold(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "file", path)
    os.write(fd, b"12345")
    (entry,) = me.entries()
    me.drop(fd)
    assert os.fsencode(entry["name"] or "") == path
    assert (entry["access"], entry["flags"], entry["pos"]) == ("rw", ["append"], 5)
    assert entry["cloexec"] is True
    json.dumps(entry).encode("ascii")


def test_wait_is_bounded(tmp_path: Path) -> None:
    me = Process("test", tmp_path, 0.05)
    with pytest.raises(WorkloadError, match="did not happen"):
        me.wait_until("the impossible", lambda: False)


def test_internet_checksum() -> None:
    # The example of RFC 1071, section 3: the sum is ddf2.
    assert _sum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF
