# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The core that comes with the package (``drgn_sockets/demo``): a dump of a guest that runs the
workloads, distilled, and the oracle of the same moment, packed.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from vm import dump
from vm.errors import VmError
from vm.kernels import Kernel

#: Where the package has it.
PLACE = Path(__file__).parent.parent / "drgn_sockets" / "demo"
#: The kernel of the demo.
KERNEL = "6.12"


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
        cwd=PLACE.parent.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise VmError(f"{core} cannot be distilled: {done.stderr.strip()}")


def _members(oracle: Path) -> Iterator[Path]:
    for path in sorted(oracle.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _members(path)


def pack(oracle: Path, to: Path) -> None:
    """Pack an oracle, of the same bytes whoever packs it."""
    with tarfile.open(to, "w:xz", format=tarfile.PAX_FORMAT, preset=9) as archive:
        for path in _members(oracle):
            info = archive.gettarinfo(str(path), str(path.relative_to(oracle)))
            info.uid = info.gid = 0
            info.uname = info.gname = "root"
            info.mtime = 0
            info.mode |= 0o600
            if info.isreg():
                with path.open("rb") as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)


def make(kernel: Kernel, place: Path = PLACE) -> list[Path]:
    """
    Make the demo's files.

    :return: What was written.
    """
    recorded = dump.cached(kernel, "standard")
    assert recorded.elf is not None and recorded.oracle is not None
    place.mkdir(parents=True, exist_ok=True)
    core, oracle = place / "core.kdump", place / "oracle.tar.xz"
    distill(recorded.elf, core, "--types", "btf")
    part = place / ".oracle.tar.xz.part"
    try:
        pack(recorded.oracle, part)
        part.replace(oracle)
    finally:
        part.unlink(missing_ok=True)
    return [core, oracle]
