# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starting workloads as daemons, holding them still, and ending them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

from . import ALL
from .account import Account

#: Where workloads make their files and sockets, a directory each.
WORK = Path("/tmp/drgn-sockets")
_HERE = Path(__file__).resolve().parents[2]


class WorkloadFailed(Exception):
    """A workload failed or took too long; the text has the end of its log."""


def _tail(log: Path) -> str:
    text = log.read_bytes()[-1500:].decode(errors="replace").strip()
    return f"; the end of {log}:\n{text}" if text else f"; {log} is empty"


def _ready_line(pipe: int, deadline: float) -> bytes:
    """Read what a workload reports, until it closes its end of the pipe."""
    parts: list[bytes] = []
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if select.select([pipe], [], [], min(left, 1))[0]:
            part = os.read(pipe, 1 << 20)
            if not part:
                break
            parts.append(part)
    if not parts:
        raise EOFError
    return b"".join(parts)


def _start_one(spec: str, directory: Path, timeout: float) -> Account:
    name = spec.partition(":")[0]
    if name not in ALL:
        raise WorkloadFailed(f"{name}: no such workload; there are {', '.join(ALL)}")
    path = directory / f"{name}.json"
    if path.exists() and _pids(_load(path)):
        raise WorkloadFailed(f"{name}: is running already, says {path}")
    log = directory / f"{name}.log"
    read_end, write_end = os.pipe()
    environment = {**os.environ, "PYTHONPATH": str(_HERE), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        "-m",
        "vm.workloads",
        "run",
        spec,
        "--ready-fd",
        str(write_end),
        "--timeout",
        str(timeout),
        "--account",
        str(directory),
    ]
    try:
        with log.open("ab", buffering=0) as output:
            output.truncate(0)
            daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[write_end],
                cwd="/",
                start_new_session=True,
                env=environment,
            )
        os.close(write_end)
        write_end = -1
        deadline = time.monotonic() + timeout
        try:
            account = json.loads(_ready_line(read_end, deadline))
            why = account.get("failed")
        except TimeoutError:
            why = f"not ready after {timeout:g} s"
        except EOFError:
            why = "ended before it was ready"
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(5)
        if why:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait(10)
            raise WorkloadFailed(f"{name}: {why}{_tail(log)}")
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)
    # It outlives us on purpose; without this, subprocess would warn.
    daemon.returncode = 0
    account["log"] = str(log)
    path.write_text(json.dumps(account, indent=1) + "\n")
    return cast(Account, account)


def start(specs: Iterable[str], directory: Path, timeout: float) -> Iterator[Account]:
    """Start workloads one after the other; yields each account once it is written."""
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    for spec in specs:
        yield _start_one(spec, directory, timeout)


def summary(account: Account) -> str:
    """Get a line about a workload that is ready."""
    fds = sum(len(process["fds"]) for process in account["processes"])
    fds += sum(r["count"] for p in account["processes"] for r in p.get("fd_ranges", ()))
    skipped = ", ".join(sorted({row["what"] for row in account["skipped"]}))
    return (
        f"{account['workload']}: pid {account['pid']}, {len(account['processes'])} tasks, {fds} fds"
        + (f"; skipped: {skipped}" if skipped else "")
    )


def _load(path: Path) -> Account:
    return cast(Account, json.loads(path.read_text()))


def load(directory: Path) -> list[Account]:
    """Read all accounts in a directory."""
    return [_load(path) for path in sorted(directory.glob("*.json"))]


def _pids(account: Account) -> list[int]:
    """Get the live processes of a workload, without pids that other processes have by now."""
    found = []
    for pid in sorted({process["pid"] for process in account["processes"]}):
        with contextlib.suppress(OSError):
            if os.getsid(pid) == account["pid"]:
                found.append(pid)
    return found


def _send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return ""


def _wait(pids: list[int], done: Callable[[str], bool], seconds: float) -> list[int]:
    end = time.monotonic() + seconds
    left = pids
    while left and time.monotonic() < end:
        left = [pid for pid in left if not done(_state(pid))]
        if left:
            time.sleep(0.02)
    return left


def _keepers(directory: Path) -> dict[int, Path]:
    """Processes that are asked to be quiet instead of stopped."""
    return {
        process["pid"]: Path(process["keeper"])
        for account in load(directory)
        for process in account["processes"]
        if "keeper" in process
    }


def _hush(keepers: dict[int, Path]) -> None:
    for pid, sign in keepers.items():
        sign.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR1)
    end = time.monotonic() + 30
    while not all(sign.exists() for sign in keepers.values()):
        if time.monotonic() > end:
            raise WorkloadFailed(f"keepers {sorted(keepers)} do not come to rest")
        time.sleep(0.05)


def freeze(directory: Path, settle: float = 1.0) -> int:
    """
    Stop the processes of all workloads; delayed ACKs have gone out on return.

    Keepers go on, quietly: see ``keeper`` in the account.
    """
    pids = [pid for account in load(directory) for pid in _pids(account)]
    if not pids:
        raise WorkloadFailed(f"no workload of {directory} is running")
    keepers = {pid: sign for pid, sign in _keepers(directory).items() if pid in pids}
    pids = [pid for pid in pids if pid not in keepers]
    _send(pids, signal.SIGSTOP)
    _hush(keepers)
    left = _wait(pids, lambda state: state in ("", "T", "t", "Z"), 30)
    if left:
        raise WorkloadFailed(f"processes {left} do not stop")
    time.sleep(settle)
    return len(pids) + len(keepers)


def renew(directory: Path) -> None:
    """In a freeze, have keepers make the sockets that do not last once more."""
    _hush({pid: sign for pid, sign in _keepers(directory).items() if sign.exists()})


def thaw(directory: Path) -> int:
    """Undo :func:`freeze`."""
    pids = [pid for account in load(directory) for pid in _pids(account)]
    _send(pids, signal.SIGCONT)
    return len(pids)


def stop(directory: Path) -> int:
    """Kill all workloads; their accounts become ``NAME.json.stopped``."""
    killed = 0
    left = []
    for path in sorted(directory.glob("*.json")):
        account = _load(path)
        pids = _pids(account)
        _send(pids, signal.SIGKILL)
        with contextlib.suppress(OSError):
            if os.getsid(account["pid"]) == account["pid"]:
                os.killpg(account["pid"], signal.SIGKILL)
        # Closing 160,000 files takes the kernel seconds.
        left += _wait(pids, lambda state: state in ("", "Z"), 60)
        killed += len(pids)
        for name, value in account["cleanup"].get("sysctls", {}).items():
            with contextlib.suppress(OSError):
                (Path("/proc/sys") / name).write_text(value)
        for name in account["cleanup"].get("cgroups", []):
            with contextlib.suppress(OSError):
                Path(name).rmdir()
        for name in account["cleanup"].get("remove", []):
            if Path(name).parent == WORK:
                shutil.rmtree(name, ignore_errors=True)
        path.rename(path.with_name(path.name + ".stopped"))
    if left:
        raise WorkloadFailed(f"processes {left} do not die")
    return killed
