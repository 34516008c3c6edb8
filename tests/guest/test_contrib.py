# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lessons in contrib/: each run as its README says, and its output true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from drgn import Program

from . import truth
from .truth import Scene

CONTRIB = Path(__file__).parent.parent.parent / "contrib"


class _Drgn:
    """Runs scripts of contrib/."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog

    def run(self, name: str, *argv: str, status: int = 0) -> tuple[str, str]:
        done = truth.script(self._prog, CONTRIB / name, *argv, status=status)
        return done.stdout, done.stderr


@pytest.fixture
def script(prog: Program) -> _Drgn:
    """For all tests but the one that takes drgn itself."""
    return _Drgn(prog)


def _drgn(name: str, *argv: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return truth.tool("drgn", "-q", "-k", str(CONTRIB / name), *argv, status=status)


@pytest.mark.ours
def test_drgn_itself_runs_them(scene: Scene, script: _Drgn) -> None:
    """As the README says, from a shell: the same output, and the same status."""
    pid = str(scene.pid)
    assert _drgn("fd_table.py", pid).stdout == script.run("fd_table.py", pid)[0]
    assert _drgn("unix_peer.py", status=2).stderr == script.run("unix_peer.py", status=2)[1]


def test_fd_table(scene: Scene, script: _Drgn) -> None:
    """Every fd, with mode, position, inode; and paths as procfs has them."""
    heading, *lines = script.run("fd_table.py", str(scene.pid))[0].splitlines()
    assert heading.split()[:4] == ["FD", "MODE", "POS", "TYPE"]
    found = {}
    for line in lines:
        words = line.split(maxsplit=6)
        found[int(words[0])] = (words[1], words[2], words[3], int(words[4]), words[6])
        assert words[5].startswith("0xff")
    links = truth.links(scene.pid)
    assert found.keys() == links.keys()
    for fd, said in scene.fds.items():
        mode, pos, kind, ino, name = found[fd]
        assert (mode, ino) == (said["mode"], said["ino"])
        assert pos == truth.fdinfo(scene.pid, fd)["pos"]
        if said["kind"] in ("reg", "dir", "chr") and fd != scene.named["nasty"]:
            assert name == said["name"].removesuffix(" (deleted)")
        if said["kind"] == "sock":
            assert kind == "SOCK"
    assert "two\\nlines \\x1b[31m\\xff \\\\" in found[scene.named["nasty"]][4]


def _address(scene: Scene, name: str) -> str:
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines():
        words = line.split()
        if len(words) > 6 and words[6] == str(scene.ino(name)):
            return words[0].rstrip(":")
    raise AssertionError(f"{name} is not in /proc/net/unix")


@pytest.mark.parametrize("prefix", ["0x", ""])
def test_unix_peer(scene: Scene, script: _Drgn, kptr_restrict: Path, prefix: str) -> None:
    """From an address of /proc/net/unix to the other end, its name, and all its holders."""
    kptr_restrict.write_text("1\n")
    address = _address(scene, "unix client")
    out = script.run("unix_peer.py", prefix + address)[0]
    self, peer = out.split("peer ", 1)
    assert self.startswith(f"self 0x{address} inode {scene.ino('unix client')} name None\n")
    path = scene.facts["path"].encode()
    there = f"0x{_address(scene, 'unix server')} inode {scene.ino('unix server')} name {path!r}\n"
    assert peer.startswith(there)
    child, fd = scene.pids["child"], scene.named["unix client"]
    held = re.findall(r"held by (.*) pid (\d+) fd (\d+)", self)
    # The thread that has a table of its own is one of its process.
    assert set(held) == {
        ("b'one of each'", str(scene.pid), str(fd)),
        ("b'a child'", str(child), str(fd)),
        ("b'a child'", str(child), "500"),
    } | {h for h in held if h[0] not in ("b'one of each'", "b'a child'")}
    out = script.run("unix_peer.py", _address(scene, "unix listener"))[0]
    assert out.endswith("peer none: it listens, or is not connected\n")


@pytest.mark.parametrize("name", ["tcp client", "tcp dual server", "udp"])
def test_inode_to_tuple(scene: Scene, script: _Drgn, name: str) -> None:
    """Both ends, the state and the holder of an inode."""
    out = script.run("inode_to_tuple.py", str(scene.ino(name)))[0]
    ends = {
        "tcp client": ("tcp", scene.facts["client"], scene.facts["listener"], "TCP_ESTABLISHED"),
        "tcp dual server": (
            "tcp",
            ("::ffff:127.0.0.1", scene.facts["six"][1]),
            ("::ffff:127.0.0.1", scene.facts["dual"][1]),
            "TCP_ESTABLISHED",
        ),
        "udp": ("udp", scene.facts["udp"], ("0.0.0.0", 0), "TCP_CLOSE"),
    }
    protocol, local, remote, state = ends[name]
    first, *holders = out.splitlines()
    words = first.split()
    assert words[0] == protocol and words[4] == state
    # Python 3.13 writes ::ffff:127.0.0.1 where others write ::ffff:7f00:1.
    there = [w.replace("::ffff:7f00:1", "::ffff:127.0.0.1") for w in (words[1], words[3])]
    assert there == [f"{a}:{p}" for a, p in (local, remote)]
    assert f"  held by b'one of each' pid {scene.pid} fd {scene.named[name]}" in holders


def test_never_bound(scene: Scene, script: _Drgn) -> None:
    """Those that the scene never bound, and none that has or had a port."""
    heading, *lines = script.run("never_bound.py")[0].splitlines()
    assert heading.split()[:5] == ["PID", "FD", "PROTO", "FAMILY", "INODE"]
    found = {int(w[1]): w[2:5] for w in map(str.split, lines) if w[0] == str(scene.pid)}
    assert found == {
        scene.named[name]: [name.split()[0].rstrip("6"), family, str(scene.ino(name))]
        for name, family in (
            ("tcp never bound", "inet"),
            ("tcp6 never bound", "inet6"),
            ("udp never bound", "inet"),
        )
    }


def test_new_connections(prog: Program, scene: Scene, tmp_path: Path) -> None:
    """What came and what went between two listings."""
    out = truth.cli(prog, "fds", str(scene.pid), "--json").stdout
    before = out.splitlines(keepends=True)
    after = [line for line in before if f"socket:[{scene.ino('tcp client')}]" not in line]
    gone = [line for line in before if line not in after]
    assert len(gone) == 2  # and in the table of the thread
    (tmp_path / "before").write_text("".join(before))
    (tmp_path / "after").write_text("".join(after))
    path = str(CONTRIB / "new_connections.py")
    argv = [str(tmp_path / "before"), str(tmp_path / "after")]
    fd, (host, port) = scene.named["tcp client"], scene.facts["client"]
    for sign, order in (("-", argv), ("+", argv[::-1])):
        out = truth.tool(sys.executable, path, *order).stdout
        for line in out.splitlines():
            assert line.startswith(f"{sign} 'one of each' pid {scene.pid} fd {fd} sock 'tcp ESTAB")
            assert f"{host}:{port}" in line
        assert len(out.splitlines()) == 2


@pytest.mark.ours
@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["fd_table.py"], "no PID given"),
        (["fd_table.py", "4194305"], "no process 4194305"),
        (["unix_peer.py"], "no address given"),
        (["unix_peer.py", "0xffff000000000000"], "no unix socket at 0xffff000000000000"),
        (["unix_peer.py", "me"], "no unix socket at me"),
        (["inode_to_tuple.py", "socket:[1]"], "usage: "),
        (["inode_to_tuple.py", "999999999"], "has inode 999999999"),
    ],
)
def test_mistakes(script: _Drgn, argv: list[str], says: str) -> None:
    """One line, and status 2."""
    out, err = script.run(*argv, status=2)
    (line,) = err.splitlines()
    assert says in line and out == ""


@pytest.mark.ours
def test_mistakes_without_drgn(tmp_path: Path) -> None:
    """The same of the one that needs no kernel."""
    (tmp_path / "bad").write_text("not json\n")
    path = str(CONTRIB / "new_connections.py")
    for argv in ([], [str(tmp_path / "bad")] * 2, ["/no/such"] * 2):
        done = truth.tool(sys.executable, path, *argv, status=2)
        (line,) = done.stderr.splitlines()
        assert "usage: new_connections.py BEFORE AFTER" in line


def test_readme_names_every_script() -> None:
    """One line each."""
    text = (CONTRIB / "README.md").read_text()
    for path in CONTRIB.glob("*.py"):
        assert text.count(f"({path.name})") == 1
        assert len(path.read_text().splitlines()) <= 70
