# SPDX-License-Identifier: LGPL-2.1-or-later
"""
drgn's own REPL with nothing but the package installed: the commands as ``%name``, and the
helpers in scripts, each against the process that made the sockets.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drgn import Program
from drgn.commands import CommandError, run_command

from tests.recorded.repl import Repl

from . import truth
from .truth import Scene


@pytest.fixture(scope="module")
def repl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repl]:
    """One session for all tests."""
    made = Repl(tmp_path_factory.mktemp("repl"), "-k")
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


def test_mistakes_in_scripts(prog: Program) -> None:
    """A script that runs a command gets drgn's own exception."""
    for line in ("fds 4194305", "fds --no-such"):
        with pytest.raises(CommandError):
            run_command(prog, line)


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
