# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Recorded machines: a core, and what procfs, ss, lsof, lsfd and the workloads said of the
same moment. What is expected always comes from these, never from our own output.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from vm import dump
from vm.errors import VmError

from .machine import Core

KERNELS = ("6.1", "6.12")
FORMATS = ("elf", "kdump")

_recorded: dict[str, dump.Recorded | str] = {}
_cores: dict[tuple[str, str], Core] = {}


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


def opened(kernel: str, format_: str) -> Core:
    """The core of *kernel* in *format_*, opened once for all tests."""
    key = (kernel, format_)
    if key not in _cores:
        _cores[key] = Core(recorded(kernel), format_)
    return _cores[key]


@pytest.fixture(scope="session", params=[f"{k}-{f}" for k in KERNELS for f in FORMATS])
def core(request: pytest.FixtureRequest) -> Iterator[Core]:
    """Each kernel's core in each format."""
    kernel, _, format_ = request.param.partition("-")
    yield opened(kernel, format_)


@pytest.fixture(scope="session", params=KERNELS)
def elf(request: pytest.FixtureRequest) -> Iterator[Core]:
    """Each kernel's core, in the format that is the faster to read."""
    yield opened(request.param, "elf")


@pytest.fixture(scope="session", params=KERNELS)
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Core, Core]]:
    """Each kernel's core in both formats."""
    yield opened(request.param, "elf"), opened(request.param, "kdump")


@pytest.fixture(scope="session")
def both_kernels() -> Iterator[tuple[Core, Core]]:
    """A core of each kernel."""
    one, other = KERNELS
    yield opened(one, "elf"), opened(other, "elf")
