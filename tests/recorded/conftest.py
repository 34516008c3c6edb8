# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Recorded machines: a core, and what procfs, ss, lsof, lsfd and the workloads said of the
same moment. What is expected always comes from these, never from our own output.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests import tables
from vm import dump
from vm.errors import VmError

from .machine import FILES, Core

# A shell has what runs in the background ignore SIGINT, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Each kernel, and where its types come from in most tests; test_btf.py shows that it is
#: all the same. DWARF is a download of 300 MB: only those of BOTH need it.
KERNELS = {"5.10": "btf", "6.1": "dwarf", "6.12": "btf", "7.2": "btf"}
BOTH = ("5.10", "6.1")
FORMATS = tuple(FILES)

_recorded: dict[str, dump.Recorded | str] = {}
_cores: dict[tuple[str, str, str], Core] = {}


def recorded(kernel: str) -> dump.Recorded:
    """The recording of *kernel*, made if the cache has none."""
    if kernel not in _recorded:
        try:
            _recorded[kernel] = dump.cached(
                kernel=kernel, workloads="standard", formats=("elf", "kdump")
            )
        except VmError as e:
            _recorded[kernel] = str(e)
    found = _recorded[kernel]
    if isinstance(found, str):
        text = f"NOTHING IS TESTED on {kernel}: no recorded machine, and none can be made: {found}"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return found


def opened(kernel: str, format_: str, types: str | None = None) -> Core:
    """The core of *kernel* in *format_*, opened once for all tests."""
    key = (kernel, format_, types or KERNELS[kernel])
    if key not in _cores:
        _cores[key] = Core(recorded(kernel), *key[1:])
    return _cores[key]


#: Each kernel's core in another format: test_agree.py shows that all formats say the same.
CORES = ["5.10-distilled", "6.1-elf", "6.12-kdump", "7.2-elf"]


@pytest.fixture(scope="session", params=CORES)
def core(request: pytest.FixtureRequest) -> Iterator[Core]:
    """Each kernel's core."""
    kernel, format_ = request.param.split("-")
    yield opened(kernel, format_)


@pytest.fixture(scope="session", params=KERNELS)
def elf(request: pytest.FixtureRequest) -> Iterator[Core]:
    """Each kernel's core, in the format that is the faster to read."""
    yield opened(request.param, "elf")


@pytest.fixture(scope="session", params=[f"{k}-{f}" for k in KERNELS for f in FORMATS[1:]])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Core, Core]]:
    """Each kernel's core in ELF and in another format."""
    kernel, format_ = request.param.split("-")
    yield opened(kernel, "elf"), opened(kernel, format_)


@pytest.fixture(scope="session", params=[f"{k}-{f}" for k in BOTH for f in ("elf", "kdump")])
def twins(request: pytest.FixtureRequest) -> Iterator[tuple[Core, Core]]:
    """The same core with types from DWARF and from BTF."""
    kernel, format_ = request.param.split("-")
    yield opened(kernel, format_, "dwarf"), opened(kernel, format_, "btf")


@pytest.fixture(scope="session", params=("6.1", "7.2"))
def sample(request: pytest.FixtureRequest) -> Iterator[Core]:
    """A core with each source of types, for what is the same on all kernels."""
    yield opened(request.param, "elf")


@pytest.fixture(scope="session")
def one() -> Core:
    """A core, for what is ours: the same on all kernels."""
    return opened("6.12", "elf")


@pytest.fixture(scope="session")
def strangers() -> Iterator[tuple[Core, Core]]:
    """Cores of two kernels that have a vmlinux."""
    one, other = BOTH
    yield opened(one, "elf"), opened(other, "elf")


def pytest_sessionfinish(exitstatus: int) -> None:
    """Write what was compared into the docs."""
    if exitstatus == pytest.ExitCode.OK:
        tables.write(KERNELS)
