# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A core that comes with the package, what procfs said of that machine, and a tour through both.

``python -m vm demo-core`` made the files: it runs the workloads of ``vm/workloads`` in a guest,
saves procfs and what sock_diag said, stops the guest, dumps it and distills the dump.
"""

from __future__ import annotations

import contextlib
import json
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from drgn import Program

_HERE = Path(__file__).parent

#: The core: kdump-compressed, with types and symbols in it.
CORE = _HERE / "core.kdump"
#: What procfs and sock_diag said of the machine, and the workloads of themselves. It is laid out
#: as ``/proc`` is.
ORACLE = _HERE / "oracle.tar.xz"


class Step(NamedTuple):
    """A step of the tour: a question, and the words of the command that answers it."""

    question: str
    words: list[str]


@contextlib.contextmanager
def unpacked_oracle() -> Iterator[Path]:
    """Unpack the oracle into a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="drgn-sockets-") as directory:
        with tarfile.open(ORACLE) as archive:
            # Like those of /proc, its links lead out of the directory, which Python from 3.12 on
            # refuses unless told otherwise.
            if hasattr(tarfile, "fully_trusted_filter"):
                archive.extraction_filter = tarfile.fully_trusted_filter
            archive.extractall(directory)
        yield Path(directory)


def introduction(prog: Program, oracle: Path) -> str:
    """Get the first lines of the tour, which say what the core is."""
    manifest = json.loads((oracle / "manifest.json").read_text())
    name = prog["init_uts_ns"].name
    release, machine = name.release.string_().decode(), name.machine.string_().decode()
    accounts = [_account(oracle, path.stem) for path in sorted((oracle / "account").glob("*.json"))]
    processes = sum(len(account["processes"]) for account in accounts)
    return (
        f"This is a core of Linux {release} ({machine}): a QEMU guest, stopped on "
        f"{time.strftime('%Y-%m-%d', time.gmtime(manifest['time']))} while\n"
        f"{len(accounts)} programs in {processes} processes and threads held sockets and files "
        "of every kind, and distilled\n"
        f"(drgn-sockets distill) from 1 GiB of memory to {CORE.stat().st_size / 1e6:.1f} MB. "
        "Types and symbols are the kernel's own,\n"
        "out of the core; no other file is needed. Try commands of your own:\n"
        "  drgn-sockets demo ss -tlp\n"
        f"  drgn -c {CORE}\n"
    )


def _account(oracle: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((oracle / "account" / f"{name}.json").read_text())
    return found


def tour(oracle: Path) -> list[Step]:
    """Get the steps of the tour; PIDs and fds are those that the workloads wrote down."""
    echo = _account(oracle, "tcp_echo")["connections"][0]
    fork = _account(oracle, "unix_fork")["connections"][0]
    database = _account(oracle, "database")["never_bound"][0]["pid"]
    client = f"{echo['client']['pid']}:{echo['client']['fd']}"
    nameless = f"{fork['client']['pid']}:{fork['client']['fd']}"
    return [
        Step(
            "Which connection is each fd of the echo server?", ["fds", str(echo["server"]["pid"])]
        ),
        Step(
            "A client's unix socket has no name. Who holds its other end, and who else holds it?",
            ["peer", nameless, "--output", "end,netid,state,local,holders,file_ino"],
        ),
        Step(
            "A database holds sockets that netstat and ss do not show",
            ["fds", str(database), "--kind", "sock"],
        ),
        Step("What does the kernel know of the echo connection?", ["tcp", client]),
        Step("Is it true? Compare kernel memory with what procfs said just before", ["check"]),
    ]
