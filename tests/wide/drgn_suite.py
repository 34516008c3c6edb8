# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's own tests, out of its source distribution, in a guest whose kernel has no debug info."""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vm import host, kernels
from vm.guest import Guest
from vm.rootfs import pip

#: What is run: the commands that are named after those of crash, and helpers. Tests of helpers
#: leave the kernel with other settings.
SUITES = ("crash_commands", "helpers")

_SECONDS = 900
_NAMES = ("pytest.ini", "util.py")
# drgn without our plugin raises here.
_CONFTEST = """
import drgn
from tests.linux_kernel import LinuxKernelTestCase

_load = LinuxKernelTestCase._load_debug_info


def _load_what_is_there(prog):
    try:
        _load(prog)
    except drgn.MissingDebugInfoError:
        pass


LinuxKernelTestCase._load_debug_info = staticmethod(_load_what_is_there)
"""
# An error that says that a type or a symbol was not found.
_WANTS = re.compile(
    r"^E +(LookupError|KeyError|\S*NotFoundError|\S*MissingDebugInfoError"
    r"|AttributeError: .* member).*",
    re.MULTILINE,
)


class Run(NamedTuple):
    """One suite on one kernel."""

    kernel: str
    suite: str
    #: pytest's last line.
    summary: str
    #: The tests that failed.
    failed: list[str]
    #: Errors that say that a type or a symbol is missing.
    wants: list[str]
    text: str


def wants(text: str) -> list[str]:
    """Errors in pytest's output that say that a type or a symbol is missing."""
    return [match[0][1:].strip() for match in _WANTS.finditer(text)]


def sources(version: str) -> bytes:
    """Get drgn's tests as a tar archive to unpack in a guest."""
    with tempfile.TemporaryDirectory() as place:
        argv = [*pip(), "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        argv += ["--no-binary", "drgn", "--dest", place, f"drgn=={version}"]
        host.call(argv, "pip download")
        (path,) = Path(place).glob("drgn-*.tar.gz")
        out = io.BytesIO()
        with tarfile.open(path) as source, tarfile.open(fileobj=out, mode="w") as target:
            for member in source:
                _, _, name = member.name.partition("/")
                if member.isfile() and (name in _NAMES or name.startswith("tests/")):
                    member.name = name
                    target.addfile(member, source.extractfile(member))
            conftest = tarfile.TarInfo("conftest.py")
            data = _CONFTEST.encode()
            conftest.size = len(data)
            target.addfile(conftest, io.BytesIO(data))
        return out.getvalue()


def run(kernel: str) -> Iterator[Run]:
    """Run the suites on a kernel."""
    with Guest(kernels.get(kernel), debug=False, memory="2G") as guest:
        asked = ["python3", "-c", "import drgn; print(drgn.__version__)"]
        version = guest.run(asked, check=True).stdout.decode().strip()
        guest.run(["mkdir", "/drgn"], check=True)
        guest.run(["tar", "-x", "-C", "/drgn"], input=sources(version), check=True)
        # A test looks for a file in it.
        guest.run(["mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing"])
        for suite in SUITES:
            done = guest.run(
                [
                    # Not "python3 -m pytest": that is the name of the first process too.
                    *("pytest", "-q", "-p", "no:cacheprovider", "-rf"),
                    f"tests/linux_kernel/{suite}",
                ],
                env={"DRGN_RUN_LINUX_KERNEL_TESTS": "1", "PYTHONPATH": "/drgn"},
                cwd="/drgn",
                timeout=_SECONDS,
            )
            text = done.stdout.decode(errors="replace")
            yield Run(
                kernel,
                suite,
                (text.strip().splitlines() or [done.stderr.decode(errors="replace")])[-1],
                re.findall(r"^FAILED (\S+)", text, re.MULTILINE),
                wants(text),
                text,
            )
