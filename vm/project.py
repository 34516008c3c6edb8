# SPDX-License-Identifier: LGPL-2.1-or-later
"""The project's tree, packed for each guest, where it works as if installed."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

from vm.errors import VmError

ROOT = Path(__file__).resolve().parent.parent

PARTS = ("contrib", "drgn_sockets", "tests", "vm", "Makefile", "README.md", "pyproject.toml")

SCRIPT = """#!/usr/bin/python3
import sys
from {module} import {function}
sys.exit({function}())
"""


def tables(pyproject: str) -> dict[str, dict[str, str]]:
    """
    Read the string values of a pyproject.toml, by table.

    Reads ``[table]`` and ``key = "value"`` lines only; Python has a TOML parser since 3.11.
    """
    found: dict[str, dict[str, str]] = {}
    table: dict[str, str] = {}
    for line in pyproject.splitlines():
        if m := re.match(r"\[([^\[\]]+)\]\s*$", line):
            table = found.setdefault(m[1].replace('"', ""), {})
        elif m := re.match(r'"?([\w.-]+)"?\s*=\s*"([^"]*)"\s*$', line):
            table[m[1]] = m[2]
    return found


def dependencies(pyproject: str) -> list[str]:
    """Read what the package depends on: ``drgn>=0.0.33``, …"""
    m = re.search(r"^dependencies = \[(.*?)\]", pyproject, re.MULTILINE | re.DOTALL)
    return re.findall(r'"([^"]+)"', m[1]) if m else []


def installed(pyproject: str) -> dict[str, str]:
    """
    Get the files that an installation would add: dist-info and scripts, by path.

    Without them, ``drgn`` in the guest would not find our plugin.
    """
    t = tables(pyproject)
    name, version = t["project"]["name"], t["project"]["version"]
    scripts = t.get("project.scripts", {})
    groups = {"console_scripts": scripts} if scripts else {}
    for table, points in t.items():
        if table.startswith("project.entry-points."):
            groups[table[len("project.entry-points.") :]] = points
    info = f"src/{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/entry_points.txt": "".join(
            f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items())
            for group, points in groups.items()
        ),
    }
    for script, target in scripts.items():
        module, _, function = target.partition(":")
        files[f"usr/local/bin/{script}"] = SCRIPT.format(module=module, function=function)
    return files


def pack() -> bytes:
    """
    Pack the tree as a tar archive to unpack in the guest's root.

    :raises VmError: if this is not the project's source tree
    """
    try:
        pyproject = (ROOT / "pyproject.toml").read_text()
    except OSError as e:
        raise VmError(f"{ROOT} is not a source tree of the project: {e.strerror}") from e

    def keep(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        name = info.name.rsplit("/", 1)[-1]
        # Hidden folders are caches of tools.
        if name == "__pycache__" or name.startswith("."):
            return None
        if not (info.isfile() or info.isdir() or info.issym()):
            return None
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        return info

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for part in PARTS:
            if (ROOT / part).exists():
                tar.add(ROOT / part, f"src/{part}", filter=keep)
        for name, text in installed(pyproject).items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if "/bin/" in name else 0o644
            data = text.encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
