# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Values of ``open()`` flags. Four of them depend on the architecture of the kernel that is read,
which need not be that of this machine.

Numbers of errors, of signals and of socket types, which other files print, are the same on all
architectures that drgn knows. (They differ on MIPS, SPARC, Alpha and PA-RISC.)
"""

from __future__ import annotations

from drgn import Architecture, Program

from drgn_sockets.kernel.memory import architecture
from drgn_sockets.program import once_per_program

# include/uapi/asm-generic/fcntl.h, the same on all architectures that drgn knows
O_ACCMODE = 0o3
O_CLOEXEC = 0o2000000
O_PATH = 0o10000000
_TMPFILE = 0o20000000

# include/uapi/asm-generic/fcntl.h: x86, RISC-V, s390, LoongArch
_GENERIC = {"DIRECT": 0o40000, "LARGEFILE": 0o100000, "DIRECTORY": 0o200000, "NOFOLLOW": 0o400000}
# arch/arm/include/uapi/asm/fcntl.h and arch/arm64/include/uapi/asm/fcntl.h
_ARM = {"DIRECTORY": 0o40000, "NOFOLLOW": 0o100000, "DIRECT": 0o200000, "LARGEFILE": 0o400000}
# arch/powerpc/include/uapi/asm/fcntl.h
_POWERPC = {"DIRECTORY": 0o40000, "NOFOLLOW": 0o100000, "LARGEFILE": 0o200000, "DIRECT": 0o400000}

_OWN = {Architecture.ARM: _ARM, Architecture.AARCH64: _ARM, Architecture.PPC64: _POWERPC}


@once_per_program
def open_flags(prog: Program) -> tuple[tuple[int, str], ...]:
    """
    Get bits and names of ``f_flags``, without the access mode. A flag that includes the bit of
    another comes before it.
    """
    own = _OWN.get(architecture(prog), _GENERIC)
    return (
        (_TMPFILE | own["DIRECTORY"], "TMPFILE"),
        (0o4010000, "SYNC"),
        (0o100, "CREAT"),
        (0o200, "EXCL"),
        (0o400, "NOCTTY"),
        (0o1000, "TRUNC"),
        (0o2000, "APPEND"),
        (0o4000, "NONBLOCK"),
        (0o10000, "DSYNC"),
        (0o20000, "ASYNC"),
        *sorted((bits, name) for name, bits in own.items()),
        (0o1000000, "NOATIME"),
        (O_CLOEXEC, "CLOEXEC"),
        (O_PATH, "PATH"),
    )


def flag_names(prog: Program, flags: int) -> list[str]:
    """
    Get the names of the ``O_*`` bits of *flags*, without the access mode. Bits without a name
    become one octal number.

    >>> flag_names(prog, 0o102002)
    ['APPEND', 'LARGEFILE']
    """
    names = []
    rest = flags & ~O_ACCMODE
    for bits, name in open_flags(prog):
        if rest & bits == bits:
            names.append(name)
            rest &= ~bits
    if rest:
        names.append(f"0{rest:o}")
    return names
