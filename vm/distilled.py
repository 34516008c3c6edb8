# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Distilled cores: of recordings, for tests; and the core that comes with the package
(``drgn_sockets/demo``), with a packed oracle of the same moment.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from vm import cache, dump
from vm.dump import Recorded
from vm.errors import VmError
from vm.kernels import Kernel

# Seconds after which the distilled core of other code is removed.
_UNUSED_S = 24 * 3600

_PACKAGE = Path(__file__).parent.parent / "drgn_sockets"
#: The directory of the demo's files.
PLACE = _PACKAGE / "demo"
#: The kernel of the demo.
KERNEL = "6.12"
# Accounts of workloads of which the tour and the tests of the demo read more than its processes.
_TOLD = ("tcp_echo", "unix_fork", "database", "payload")


def distill(core: Path, to: Path, *options: str) -> None:
    """
    Distill a core, in a process of its own.

    :param options: Options of ``drgn-sockets`` that say where symbols come from.
    :raises VmError: if that fails
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "drgn_sockets"),
            *("-c", str(core), *options),
            *("distill", "-o", str(to)),
        ],
        cwd=_PACKAGE.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise VmError(f"{core} cannot be distilled: {done.stderr.strip()}")


def cached(recorded: Recorded) -> Path:
    """
    Get the distilled core of a recording. It is made when first asked for, and again after each
    change of the code.
    """
    assert recorded.elf is not None
    digest = hashlib.sha256(recorded.elf.parent.name.encode())
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    stem = f"{recorded.release}.kdump"
    where = cache.root() / "distilled" / f"{digest.hexdigest()[:12]}-{stem}"
    options = ["--types", "btf"]
    if recorded.system_map is not None:
        options += ["--system-map", str(recorded.system_map)]
    elf = recorded.elf
    if not where.exists():
        cache.ensure(where, lambda part: distill(elf, part, *options))
        # Another checkout may still use its own.
        for old in where.parent.glob(f"*-{stem}"):
            if old != where and time.time() - old.stat().st_mtime > _UNUSED_S:
                cache.remove(old)
    os.utime(where)
    return where


def _members(oracle: Path) -> Iterator[Path]:
    for path in sorted(oracle.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _members(path)


def _account(path: Path) -> bytes:
    """Get the account of a workload, for most of them without the fds of its processes."""
    account = json.loads(path.read_text())
    if path.stem not in _TOLD:
        account = {
            "processes": [
                {key: value for key, value in process.items() if key in ("pid", "tid", "comm")}
                for process in account["processes"]
            ]
        }
    return json.dumps(account).encode()


def pack(oracle: Path, to: Path) -> None:
    """
    Pack what the demo reads of an oracle: procfs, sock_diag and accounts of the workloads. What
    other tools said is left out. The result has the same bytes on any machine.
    """
    with (
        lzma.open(to, "wb", preset=9 | lzma.PRESET_EXTREME) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in _members(oracle):
            name = path.relative_to(oracle)
            if name.parts[0] == "tools" or (name.parts[0] == "account" and path.suffix == ".log"):
                continue
            info = archive.gettarinfo(str(path), str(name))
            info.uid = info.gid = 0
            info.uname = info.gname = "root"
            info.mtime = 0
            info.mode |= 0o600
            if name.parts[0] == "account" and info.isreg():
                data = _account(path)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            elif info.isreg():
                with path.open("rb") as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)


def make(kernel: Kernel, place: Path = PLACE) -> list[Path]:
    """
    Make the demo's files, from the recording of the standard workloads that tests use.

    :return: What was written.
    """
    recorded = dump.cached(kernel)
    assert recorded.elf is not None and recorded.oracle is not None
    place.mkdir(parents=True, exist_ok=True)
    core, oracle = place / "core.kdump", place / "oracle.tar.xz"
    distill(recorded.elf, core, "--types", "btf")
    core.chmod(0o644)
    part = place / ".oracle.tar.xz.part"
    try:
        pack(recorded.oracle, part)
        part.replace(oracle)
    finally:
        part.unlink(missing_ok=True)
    return [core, oracle]
