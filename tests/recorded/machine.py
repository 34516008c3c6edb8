# SPDX-License-Identifier: LGPL-2.1-or-later
"""A recorded machine: commands on its core, and what others said of it."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from drgn import Program

from drgn_sockets.cli import make_parser
from drgn_sockets.errors import UserError
from drgn_sockets.target import open_target
from vm import distilled
from vm.dump import Recorded

from .ss_text import SsRow, parse_ss

ROOT = Path(__file__).resolve().parents[2]

Row = dict[str, Any]


def series_of(kernel: str) -> str:
    """The series of a kernel, by its name in :mod:`vm.kernels`."""
    return kernel.removeprefix("arm64-").removesuffix("-16k")


class Done(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str


#: The file of each format that a recording has a core in.
FILES: dict[str, Callable[[Recorded], Path | None]] = {
    "elf": lambda recorded: recorded.elf,
    "kdump": lambda recorded: recorded.kdump,
    "distilled": distilled.cached,
}


class Core:
    """
    A core, opened once, and its oracle.

    :param types: ``dwarf`` or ``btf``
    """

    def __init__(self, recorded: Recorded, format_: str, types: str) -> None:
        path = FILES[format_](recorded)
        assert path is not None and recorded.oracle is not None
        self.kernel = recorded.kernel
        self.types = types
        self.path: Path = path
        self.oracle: Path = recorded.oracle
        self.recorded = recorded
        #: Options that say where types come from.
        self.symbols = ["--types", types]
        if format_ == "distilled":
            # It needs nothing but itself.
            self.symbols = []
        elif types == "dwarf":
            self.symbols += ["-s", str(self.vmlinux)]
        else:
            self.symbols += self.system_map
        self.target = ["-c", str(path), *self.symbols]
        self._rows: dict[tuple[str, ...], list[Row]] = {}

    @property
    def series(self) -> str:
        """The series of the kernel, whatever the machine: 6.12 of arm64-6.12-16k."""
        return series_of(self.kernel)

    @property
    def vmlinux(self) -> Path:
        """Fetched when first asked for."""
        path = self.recorded.vmlinux
        assert path is not None
        return path

    @functools.cached_property
    def system_map(self) -> list[str]:
        """``--system-map``, for a core that wants one."""
        path = self.recorded.system_map
        return [] if path is None else ["--system-map", str(path)]

    @functools.cached_property
    def prog(self) -> Program:
        args = make_parser().parse_args([*self.target, "ss"])
        return open_target(args)

    def run(self, *argv: str) -> Done:
        """Run a command on the core, in this process."""
        return run_on(self.prog, *argv)

    def rows(self, *argv: str, status: int = 0) -> list[Row]:
        """What a command with ``--json`` prints, all columns; read once."""
        if argv not in self._rows:
            output = [] if "--output" in argv or argv[0] in ("check", "tcp") else ["--output=all"]
            done = self.run(*argv, "--json", *output)
            assert done.status == status, done.err
            self._rows[argv] = [json.loads(line) for line in done.out.splitlines()]
        return self._rows[argv]

    def spawn(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run a command on the core as from a shell; what it says of BTF is taken away."""
        done = spawn(*self.target, *argv, **options)
        done.stderr = self.stderr(done.stderr)
        return done

    def stderr(self, text: bytes) -> bytes:
        """Standard error of a command, without the line that says where types are from."""
        first, _, rest = text.partition(b"\n")
        if first.startswith(b"drgn-sockets: types "):
            return rest
        return text

    @functools.cached_property
    def accounts(self) -> dict[str, Any]:
        """The workloads' accounts, by name."""
        return {
            path.stem: json.loads(path.read_text())
            for path in sorted((self.oracle / "account").glob("*.json"))
        }

    def fds(self, workload: str | None = None, **has: Any) -> Iterator[tuple[Any, Any]]:
        """
        Processes and descriptors that workloads say they have; threads with tables of their own
        aside.

        :param has: Members that the account of the descriptor has with these values.
        """
        for name, account in self.accounts.items():
            if workload in (None, name):
                for process in account["processes"]:
                    if process["tid"] == process["pid"]:
                        for entry in process["fds"]:
                            if has.items() <= entry.items():
                                yield process, entry

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """The oracle's own account."""
        found: dict[str, Any] = json.loads((self.oracle / "manifest.json").read_text())
        return found

    @functools.cached_property
    def ended(self) -> set[int]:
        """
        Workers of the kernel's that are no more: those that have nothing to do for five minutes
        end, and so long a slow machine may take from its start to its stop.
        """
        from drgn.helpers.linux.pid import find_task

        names = self.oracle.glob("[0-9]*/comm")
        workers = {
            int(path.parent.name) for path in names if path.read_bytes().startswith(b"kworker/")
        }
        return {pid for pid in workers if not find_task(self.prog, pid)}

    @functools.cached_property
    def begun(self) -> set[int]:
        """Workers of the kernel's that have begun since procfs was saved."""
        from drgn.helpers.linux.pid import for_each_task

        return {
            task.pid.value_()
            for task in for_each_task(self.prog)
            if task.comm.string_().startswith(b"kworker/")
            and not (self.oracle / str(task.pid.value_())).exists()
        }

    @functools.cached_property
    def tools_ran_s(self) -> float:
        """At most so long before the machine's stop the tools ran: what timers may fire in."""
        return float(self.manifest["finished"] - self.manifest["time"]) + 20

    def tool(self, name: str, netns: int | None = None) -> str:
        """What a tool printed; bytes that are not UTF-8 as surrogates."""
        place = self.oracle / "tools"
        if netns is not None:
            place /= f"netns-{netns}"
        return os.fsdecode((place / name).read_bytes())

    @functools.cached_property
    def home_netns(self) -> int:
        """Network namespace in which the tools ran."""
        return int(Path(os.readlink(self.oracle / "net")).parent.name)  # noqa: PTH115

    @functools.cached_property
    def tool_netns(self) -> list[int]:
        """Network namespaces that the tools were run in."""
        there = self.oracle / "tools"
        return [self.home_netns, *(int(p.name[6:]) for p in sorted(there.glob("netns-*")))]

    @functools.cached_property
    def ss_rows(self) -> list[SsRow]:
        """Rows of ``ss -aniempoO -tuwx0`` of all these namespaces."""
        rows = []
        for netns in self.tool_netns:
            text = self.tool("ss-lines", None if netns == self.home_netns else netns)
            # A namespace may have no sockets, but then ss says that much.
            assert "Netid" in text, f"ss of namespace {netns} did not run"
            found = parse_ss(text)
            assert found or netns != self.home_netns, "ss shows nothing"
            rows += [row._replace(netns=netns) for row in found]
        return rows

    @functools.cached_property
    def ss_by_ends(self) -> dict[frozenset[str], list[SsRow]]:
        """Rows of both ends of each connection."""
        found: dict[frozenset[str], list[SsRow]] = {}
        for row in self.ss_rows:
            found.setdefault(frozenset((row.local, row.peer)), []).append(row)
        return found


def run_on(prog: Program, *argv: str) -> Done:
    """Run a command line as :func:`drgn_sockets.cli.main` does, on an open program."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            args = make_parser().parse_args(argv)
            status: int = args.run.execute(prog, args)
        except UserError as e:
            print(f"drgn-sockets: {e}", file=sys.stderr)
            status = 2
        except SystemExit as e:
            status = int(e.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


def spawn(*argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run ``python -m drgn_sockets`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "drgn_sockets", *argv],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=120,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def one_line(done: Done | subprocess.CompletedProcess[bytes], *words: str) -> None:
    """Status 2, one line on standard error with *words* in it, nothing printed."""
    if not isinstance(done, Done):
        done = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
    err = done.err
    assert done.status == 2, (done.status, err)
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert err.startswith("drgn-sockets"), err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
    assert done.out == ""
