# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``--qemu``: a guest looked at from outside, against what it says of itself. It is looked at
while it runs; only its workloads stand still.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vm.kdump_pages import Kdump
from vm.qmp import Qmp

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Held:
    """A guest that ``python -m vm hold`` keeps."""

    process: subprocess.Popen[str]
    qmp: Path
    vmlinux: str
    oracle: Path

    def ours(self, *argv: str, status: int = 0) -> str:
        """Run ``drgn-sockets`` on it, from outside."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "drgn_sockets"),
                *("--qemu", str(self.qmp), "-s", self.vmlinux, *argv),
            ],
            capture_output=True,
            text=True,
            timeout=240,
            cwd=ROOT,
        )
        assert done.returncode == status, (done.stdout, done.stderr)
        return done.stdout

    def rows(self, *argv: str) -> list[dict[str, Any]]:
        """The same of ``--json``."""
        return [json.loads(line) for line in self.ours(*argv, "--json").splitlines()]

    def account(self, name: str) -> dict[str, Any]:
        """What a workload says of itself."""
        found: dict[str, Any] = json.loads((self.oracle / f"account/{name}.json").read_text())
        return found


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    """One guest for all tests, ended as a user ends it."""
    tmp = tmp_path_factory.mktemp("held")
    argv = ["--qmp", str(tmp / "qmp"), "--oracle", str(tmp / "oracle")]
    with subprocess.Popen(
        [sys.executable, "-m", "vm", "hold", "--workload", "standard", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as p:
        assert p.stdout and p.stderr
        line = p.stdout.readline()
        if not line:
            text = f"NOTHING IS TESTED: no guest can be held here: {p.stderr.read()}"
            if os.environ.get("CI"):
                pytest.fail(text)
            pytest.skip(text)
        ready = json.loads(line)
        yield Held(p, Path(ready["qmp"]), ready["vmlinux"], Path(ready["oracle"]))
        p.send_signal(signal.SIGTERM)
        p.communicate(timeout=60)
    assert p.returncode == 143
    assert not (tmp / "qmp").exists()
    assert sorted(path.name for path in tmp.iterdir()) == ["oracle"]


def test_check(held: Held) -> None:
    """Every row and every fd of the guest's own procfs, and no mismatch."""
    out = held.ours("check", "--procfs", str(held.oracle))
    last = out.splitlines()[-1]
    rows, mismatches = int(last.split()[0]), int(last.split()[-2])
    fds = sum(1 for _ in held.oracle.glob("[0-9]*/fd/*"))
    assert mismatches == 0
    assert fds > 500 and rows > fds + 200


def test_fds(held: Held) -> None:
    """Every descriptor that the workloads have an account of."""
    table = {(row["tid"] or row["pid"], row["fd"]): row for row in held.rows("fds", "--output=all")}
    compared = 0
    for path in (held.oracle / "account").glob("*.json"):
        for process in json.loads(path.read_text())["processes"]:
            for entry in process["fds"]:
                row = table[process["tid"], entry["fd"]]
                assert (row["ino"], row["cloexec"]) == (entry["inode"], entry["cloexec"])
                if entry["name"] is not None:
                    assert os.fsencode(row["name"]) == os.fsencode(entry["name"])
                compared += 1
    assert compared > 500


def test_ss(held: Held) -> None:
    """Local ends of TCP sockets, as the workloads know them."""
    mine = {row["ino"]: row for row in held.rows("ss", "-tap", "--output=all") if row["ino"]}
    compared = 0
    for name in ("tcp_echo", "database", "tcp_states"):
        for process in held.account(name)["processes"]:
            for entry in process["fds"]:
                if entry.get("family") in ("AF_INET", "AF_INET6") and entry["protocol"] == 6:
                    row = mine[entry["inode"]]
                    assert (row["laddr"], row["lport"]) == tuple(entry["local"][:2]), entry
                    held_by = {(h["pid"], h["fd"]) for h in row["holders"]}
                    assert (process["pid"], entry["fd"]) in held_by
                    compared += 1
    assert compared > 50


def test_peer(held: Held) -> None:
    """Both ends of the connection that was forked, and who holds each."""
    account = held.account("unix_fork")
    connection = account["connections"][0]
    client, server = connection["client"], connection["server"]
    ends = {row["end"]: row for row in held.rows("peer", f"{client['pid']}:{client['fd']}")}
    assert (client["pid"], client["fd"]) in {(h["pid"], h["fd"]) for h in ends["self"]["holders"]}
    assert (server["pid"], server["fd"]) in {(h["pid"], h["fd"]) for h in ends["peer"]["holders"]}
    assert len(ends["self"]["holders"]) >= 2
    inodes = {(p["pid"], e["fd"]): e["inode"] for p in account["processes"] for e in p["fds"]}
    assert ends["self"]["ino"] == inodes[client["pid"], client["fd"]]
    assert ends["peer"]["ino"] == inodes[server["pid"], server["fd"]]


def test_tcp(held: Held) -> None:
    """A connection of the echo workload, by its fd."""
    client = held.account("tcp_echo")["connections"][0]["client"]
    fields = {r["field"]: r["value"] for r in held.rows("tcp", f"{client['pid']}:{client['fd']}")}
    entry = next(
        e
        for p in held.account("tcp_echo")["processes"]
        for e in p["fds"]
        if (p["pid"], e["fd"]) == (client["pid"], client["fd"])
    )
    assert fields["state_name"] == "ESTAB"
    assert fields["local"] == f"{entry['local'][0]}:{entry['local'][1]}"
    assert fields["bytes_sent"] > 0


def test_guest_lives_on(held: Held) -> None:
    """Nobody stopped it, and the socket takes the next one."""
    held.ours("fds", "1")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(held.qmp))
        # QEMU talks to one at a time: whoever does not hang up keeps all others waiting.
        with contextlib.closing(Qmp(sock)) as monitor:
            assert monitor.execute("query-status")["running"]
    assert held.process.poll() is None
    assert held.ours("fds", "1")


def test_distill(held: Held, tmp_path: Path) -> None:
    """What was distilled from outside holds what the guest says of itself, and no secret."""
    path = tmp_path / "core"
    held.ours("distill", "-o", str(path))
    assert path.stat().st_size <= 6 << 20
    argv = [sys.executable, "-m", "drgn_sockets", "-c", str(path)]
    check = [*argv, "check", "--procfs", str(held.oracle)]
    done = subprocess.run(check, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    last = done.stdout.splitlines()[-1]
    assert last.endswith(" 0 mismatches") and int(last.split()[0]) > 700
    memory = Kdump(path)
    secrets = held.account("payload")["secrets"]
    assert [s["place"] for s in secrets if memory.holds(s["token"].encode())] == []
