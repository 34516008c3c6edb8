# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Names of open flags, by architecture.

Values are those of the C macros, as a preprocessor prints them of Debian's linux-libc-dev of each
architecture.
"""

from __future__ import annotations

import pytest
from drgn import Architecture, Platform, Program

from drgn_sockets.kernel.fcntl import flag_names, open_flags

#: O_DIRECTORY, O_NOFOLLOW, O_DIRECT, O_LARGEFILE
VALUES = {
    Architecture.X86_64: (0o200000, 0o400000, 0o40000, 0o100000),
    Architecture.I386: (0o200000, 0o400000, 0o40000, 0o100000),
    Architecture.AARCH64: (0o40000, 0o100000, 0o200000, 0o400000),
    Architecture.ARM: (0o40000, 0o100000, 0o200000, 0o400000),
    Architecture.PPC64: (0o40000, 0o100000, 0o400000, 0o200000),
    Architecture.S390X: (0o200000, 0o400000, 0o40000, 0o100000),
    Architecture.RISCV64: (0o200000, 0o400000, 0o40000, 0o100000),
}


def of(architecture: Architecture) -> Program:
    return Program(Platform(architecture))


@pytest.mark.parametrize("architecture", VALUES, ids=lambda a: a.name)
def test_flags_of_architectures(architecture: Architecture) -> None:
    prog = of(architecture)
    names = ("DIRECTORY", "NOFOLLOW", "DIRECT", "LARGEFILE")
    for value, name in zip(VALUES[architecture], names):
        assert flag_names(prog, value) == [name]
    # __O_TMPFILE is 020000000, and O_TMPFILE has O_DIRECTORY's bit in it.
    assert flag_names(prog, 0o20000000 | VALUES[architecture][0]) == ["TMPFILE"]
    assert len({bits for bits, _ in open_flags(prog)}) == 17


@pytest.mark.parametrize("architecture", VALUES, ids=lambda a: a.name)
def test_flags_of_all(architecture: Architecture) -> None:
    prog = of(architecture)
    assert flag_names(prog, 0o2004001 | 0o2000) == ["APPEND", "NONBLOCK", "CLOEXEC"]
    # O_SYNC has O_DSYNC's bit in it.
    assert flag_names(prog, 0o4010000) == ["SYNC"]
    assert flag_names(prog, 0o10000) == ["DSYNC"]
    assert flag_names(prog, 0o1000000000) == ["01000000000"]
    assert flag_names(prog, 2) == []
