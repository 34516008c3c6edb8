# SPDX-License-Identifier: LGPL-2.1-or-later
"""
drgn's own REPL with nothing but the package installed: the commands as ``%name``, and the
helpers in scripts, each against the process that made the sockets.
"""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drgn import Program
from drgn.commands import CommandError, run_command

from . import truth
from .truth import Scene

_PROMPT = ">>> "
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


class Repl:
    """A person at drgn's prompt: types a line, reads what comes."""

    def __init__(self, cwd: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.environ.update(TERM="dumb", PYTHONUNBUFFERED="1", HOME=str(cwd))
            os.execvp("drgn", ["drgn", "-q", "-k"])
        self.banner = self._until_prompt()

    def _until_prompt(self) -> str:
        data = b""
        deadline = time.monotonic() + 300
        while not data.endswith(_PROMPT.encode()):
            assert time.monotonic() < deadline, data
            if select.select([self.fd], [], [], 1)[0]:
                try:
                    data += os.read(self.fd, 1 << 16)
                except OSError as e:
                    assert e.errno == errno.EIO
                    raise AssertionError(f"drgn ended: {data!r}") from None
        return _ESCAPES.sub("", data.decode())[: -len(_PROMPT)]

    def type(self, line: str) -> str:
        """Type a line; what is printed up to the next prompt, without the echo."""
        os.write(self.fd, line.encode() + b"\n")
        return self._until_prompt().partition("\n")[2]

    def close(self) -> None:
        """End it."""
        os.close(self.fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture(scope="module")
def repl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repl]:
    """One session for all tests."""
    made = Repl(tmp_path_factory.mktemp("repl"))
    yield made
    made.close()


def test_session(repl: Repl, scene: Scene) -> None:
    """A person looks around: tables as long as they should be, no traceback, right ends."""
    out = repl.type(f"%fds {scene.pid}")
    heading, *lines = out.splitlines()
    assert heading.split()[:4] == ["COMMAND", "PID", "TID", "FD"]
    thread = truth.links(f"{scene.pid}/task/{scene.facts['thread']['tid']}")
    assert len(lines) == len(truth.links(scene.pid)) + len(thread)
    out = repl.type("%fds 1")
    assert len(out.splitlines()) == len(truth.links(1)) + 1
    port = scene.facts["listener"][1]
    out = repl.type("%ss -tl")
    assert re.search(rf"^tcp +LISTEN +1 +3 +127\.0\.0\.1:{port} ", out, re.MULTILINE), out
    out = repl.type(f"%peer {scene.pid}:{scene.named['unix client']}")
    child = scene.pids["child"]
    assert f'("one of each",pid={scene.pid},fd={scene.named["unix client"]})' in out
    assert f'("a child",pid={child},fd=500)' in out
    assert scene.facts["path"] in out
    out = repl.type(f"%tcp {scene.pid}:{scene.named['tcp server']}")
    assert re.search(r"^recv_q +777 ", out, re.MULTILINE), out
    out = repl.type("%check")
    assert truth.summary(out)["mismatches"] == 0


def test_pipe_and_redirect(repl: Repl, tmp_path: Path, scene: Scene) -> None:
    """``| head`` ends early and quietly; ``>`` has it all."""
    assert len(repl.type("%ss -a | head -3").splitlines()) == 3
    assert repl.type(f"%fds {scene.pid} | wc -l").strip() == str(
        len(repl.type(f"%fds {scene.pid}").splitlines())
    )
    assert repl.type(f"%ss -xa --json > {tmp_path}/out") == ""
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert scene.facts["path"] in "".join(row["local"] for row in rows)


@pytest.mark.ours
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("%fds 4194305", "no process 4194305"),
        ("%fds no-such", "no process is called 'no-such'"),
        ("%ss --no-such", "unrecognized arguments: --no-such"),
        ("%peer", "the following arguments are required: WHAT"),
        ("%peer 0xdead", "0xdead is not a socket"),
        ("%tcp 1:0", "fd 0 of process 1 is not a socket"),
        ("%ss --output no_such", "no such column: 'no_such'"),
        ("%check --procfs /no/such", "no such directory: /no/such"),
    ],
)
def test_mistakes(repl: Repl, line: str, says: str) -> None:
    """A mistake is one line that says what is wrong, and the session goes on."""
    out = repl.type(line)
    assert says in out
    assert len(out.splitlines()) == 1, out
    assert "Traceback" not in out


def test_mistakes_in_scripts(prog: Program) -> None:
    """A script that runs a command gets drgn's own exception."""
    for line in ("fds 4194305", "fds --no-such"):
        with pytest.raises(CommandError):
            run_command(prog, line)


@pytest.mark.ours
def test_help(repl: Repl) -> None:
    """What commands there are, and what each takes."""
    repl.type("from drgn.commands import DEFAULT_COMMAND_NAMESPACE as commands")
    listing = repl.type("print({n: c.description() for n, c in commands.enabled(prog)})")
    for name in ("fds", "ss", "peer", "tcp", "check"):
        assert f"'{name}': " in listing
        out = repl.type(f"%{name} --help")
        assert out.startswith(f"usage: {name} "), out
        assert "--output COLS" in out
    out = repl.type("%fds --output help")
    assert re.search(r"^\* pid +process ID$", out, re.MULTILINE)


@pytest.mark.ours
def test_interrupt(repl: Repl) -> None:
    """Ctrl-C ends a command, not the session."""
    os.write(repl.fd, b"%check\n")
    time.sleep(1)
    os.write(repl.fd, b"\x03")
    out = repl._until_prompt()
    assert "KeyboardInterrupt" in out
    assert repl.type("print(6 * 7)").strip() == "42"


@pytest.mark.ours
def test_without_a_terminal(prog: Program, scene: Scene) -> None:
    """A script on standard input, and -e: the same output as from the shell."""
    # Without the detail: who holds the other ends depends on who runs besides.
    line = f"fds {scene.pid} --json --output fd,mode,kind,name"
    expected = truth.cli(prog, *line.split()).stdout
    script = f"from drgn.commands import run_command\nrun_command(prog, {line!r})\n"
    done = truth.tool("drgn", "-q", "-k", stdin=None, input=script)
    assert done.stdout == expected
    script = f"from drgn.commands import run_command; run_command(prog, {line!r})"
    assert truth.tool("drgn", "-q", "-k", "-e", script).stdout == expected


_SCRIPT = """
import json, os, sys
import drgn_sockets
from drgn_sockets import *
from drgn.helpers.linux import *

pid = int(sys.argv[1])
task = find_task(pid)
found = {}
table = dict(for_each_fd(task))
found["files"] = {fd: os.fsdecode(file_name(file)) for fd, file in table.items()}
socks = {fd: sock_from_file(file) for fd, file in table.items()}
found["sockets"] = {fd: bool(sock) for fd, sock in socks.items()}
found["inos"] = {fd: sock_i_ino(sock.sk) for fd, sock in socks.items() if sock}
found["netns"] = sorted({sock_net_ino(sock.sk) for sock in socks.values() if sock})
for name, walk in (("tcp", for_each_tcp_sock), ("udp", for_each_udp_sock),
                   ("raw", for_each_raw_sock), ("unix", for_each_unix_sock)):
    sks = list(walk())
    assert sks and all(sk.type_.type_name() == "struct sock *" for sk in sks), name
    assert [sk.value_() for sk in walk(prog)][:3] == [sk.value_() for sk in sks][:3], name
    small = (6, 12) if name == "tcp" else ()
    found[name] = [sock_i_ino(sk) for sk in sks if sk.__sk_common.skc_state.value_() not in small]
    if name == "unix":
        found["names"] = {
            sock_i_ino(sk): os.fsdecode(unix_sock_name(sk) or b"") for sk in sks
        }
        found["peers"] = {
            sock_i_ino(sk): sock_i_ino(unix_peer(sk)) for sk in sks if unix_peer(sk)
        }
        client = next(sk for sk in sks if sock_i_ino(sk) == int(sys.argv[2]))
        found["holders"] = [
            [t.tgid.value_(), t.pid.value_(), fd] for t, fd in sock_holders(client)
        ]
    if name == "tcp":
        found["requests"] = [
            sk_listener(sk).__sk_common.skc_state.value_()
            for sk in sks if sk.__sk_common.skc_state.value_() == 12
        ]
found["doc"] = {name: getattr(drgn_sockets, name).__doc__ for name in drgn_sockets.__all__}
found["dir"] = [name for name in drgn_sockets.__all__ if name in dir(drgn_sockets)]
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def helped(prog: Program, scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a script with nothing but the helpers found."""
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(_SCRIPT)
    argv = [str(scene.pid), str(scene.ino("unix client"))]
    with socket.socket() as waiting:
        # It waits for data: until then what is connected is a request, which outlives those of
        # the workloads if it has to.
        waiting.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 600)
        waiting.bind(("127.0.0.1", 0))
        waiting.listen()
        with socket.create_connection(waiting.getsockname()):
            out = truth.script(prog, path, *argv).stdout
    return json.loads(out)  # type: ignore[no-any-return]


def test_helpers_of_files(helped: dict[str, Any], scene: Scene) -> None:
    """for_each_fd(), file_name(), sock_from_file(), sock_i_ino(), sock_net_ino()."""
    links = truth.links(scene.pid)
    assert {int(fd): os.fsencode(name) for fd, name in helped["files"].items()} == links
    for fd, link in links.items():
        assert helped["sockets"][str(fd)] == link.startswith(b"socket:")
    for fd, ino in helped["inos"].items():
        assert links[int(fd)] == b"socket:[%d]" % ino
    assert helped["netns"] == [scene.facts["netns"]]


def test_helpers_of_sockets(helped: dict[str, Any], scene: Scene) -> None:
    """for_each_*_sock(): those that procfs lists; names, peers, holders, listeners."""
    for name in ("tcp", "udp", "unix"):
        held = {scene.ino(n) for n in scene.named if n.split()[0].rstrip("6") == name}
        listed = " ".join(
            Path("/proc/net", file).read_text(errors="replace")
            for file in ((name,) if name == "unix" else (name, f"{name}6"))
        ).split()
        assert held & set(helped[name]) == {ino for ino in held if str(ino) in listed}
    assert helped["names"][str(scene.ino("unix listener"))] == scene.facts["path"]
    assert helped["names"][str(scene.ino("unix server"))] == scene.facts["path"]
    assert helped["names"][str(scene.ino("unix client"))] == ""
    assert helped["names"][str(scene.ino("unix nasty"))] == truth.NASTY + ".s"
    assert helped["names"][str(scene.ino("unix abstract"))] == "\0of a \0test"
    assert helped["peers"][str(scene.ino("unix client"))] == scene.ino("unix server")
    assert helped["peers"][str(scene.ino("pair b"))] == scene.ino("pair a")
    child, fd, tid = scene.pids["child"], scene.named["unix client"], scene.facts["thread"]["tid"]
    assert sorted(helped["holders"]) == sorted(
        [
            [scene.pid, scene.pid, fd],
            [scene.pid, tid, fd],
            [child, child, fd],
            [child, child, 500],
        ]
    )
    # Each request leads to one that listens.
    assert helped["requests"] and set(helped["requests"]) == {10}


def test_helpers_are_documented(helped: dict[str, Any]) -> None:
    """help() says what each takes, by its C type, and what it gives."""
    for name, doc in helped["doc"].items():
        assert doc and "struct " in doc, name
    assert helped["dir"] == list(helped["doc"])
