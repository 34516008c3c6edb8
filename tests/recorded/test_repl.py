# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's own prompt on a core, and scripts without one; tests/guest has it on a live kernel."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .machine import Core
from .repl import DRGN, Repl


@pytest.fixture(scope="module")
def repl(one: Core, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repl]:
    """One session for all tests."""
    made = Repl(tmp_path_factory.mktemp("repl"), "--main-symbols", "-c", str(one.path))
    yield made
    made.close()


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


def cpu_ticks(pid: int) -> int:
    """Time that a process has run, in 1/100 s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_interrupt(repl: Repl, one: Core) -> None:
    """Ctrl-C ends a command, not the session."""
    before = cpu_ticks(repl.pid)
    repl.send(f"%check --procfs {one.oracle}")
    # By then it is at work.
    deadline = time.monotonic() + 60
    while cpu_ticks(repl.pid) < before + 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "KeyboardInterrupt" in repl.interrupt()
    assert repl.type("print(6 * 7)").strip() == "42"


def test_without_a_terminal(one: Core) -> None:
    """A script on standard input, and -e: the same output as from the shell."""
    pid = one.accounts["fd_zoo"]["processes"][0]["pid"]
    line = f"fds {pid} --json --output fd,mode,kind,name"
    expected = one.run(*line.split()).out
    assert expected.count("\n") > 50
    target = [DRGN, "-q", "--main-symbols", "-c", str(one.path)]
    for options, script in (
        ([], f"from drgn.commands import run_command\nrun_command(prog, {line!r})\n"),
        (["-e", f"from drgn.commands import run_command; run_command(prog, {line!r})"], ""),
    ):
        done = subprocess.run(
            [*target, *options], input=script, capture_output=True, text=True, check=True
        )
        assert done.stdout == expected
