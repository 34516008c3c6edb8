# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines of ``/proc/PID/status`` about mitigations, on x86: arch/x86/kernel/cpu/bugs.c."""

from __future__ import annotations

import struct

from drgn import Program

from drgn_sockets.kernel.memory import byte_order, read_bytes, read_pointers, read_string
from drgn_sockets.kernel.process import read_word
from drgn_sockets.program import once_per_program

# arch/x86/include/asm/nospec-branch.h: enum ssb_mitigation
_SSB_DISABLE, _SSB_PRCTL, _SSB_SECCOMP = 1, 2, 3
# enum spectre_v2_user_mitigation
_USER_NONE, _USER_STRICT, _USER_STRICT_PREFERRED, _USER_PRCTL, _USER_SECCOMP = range(5)
# include/linux/sched.h: PFA_* bits
_SSB_DISABLED, _SSB_FORCE, _IB_DISABLED, _IB_FORCE, _SSB_NOEXEC = (1 << i for i in range(3, 8))
# arch/x86/include/asm/cpufeatures.h: NBUGINTS has grown.
_BUGS = 2 * 32


def store_bypass(prog: Program, atomic_flags: int) -> str:
    """
    Get the text of the line ``Speculation_Store_Bypass``.

    :param atomic_flags: PFA_* bits of the task
    """
    mode = read_word(prog, "ssb_mode")
    if mode is None:
        return "unknown"
    if mode == _SSB_DISABLE:
        return "globally mitigated"
    if mode in (_SSB_PRCTL, _SSB_SECCOMP):
        if atomic_flags & _SSB_FORCE:
            return "thread force mitigated"
        if atomic_flags & _SSB_NOEXEC:
            return "vulnerable"
        return "thread mitigated" if atomic_flags & _SSB_DISABLED else "thread vulnerable"
    return "vulnerable" if boot_cpu_has_bug(prog, b"spec_store_bypass") else "not vulnerable"


def indirect_branch(prog: Program, atomic_flags: int) -> str:
    """Get the text of the line ``SpeculationIndirectBranch``, see :func:`store_bypass`."""
    ibpb = read_word(prog, "spectre_v2_user_ibpb")
    stibp = read_word(prog, "spectre_v2_user_stibp")
    if ibpb is None or stibp is None:
        return "unsupported"
    if not boot_cpu_has_bug(prog, b"spectre_v2"):
        return "not affected"
    modes = {ibpb, stibp}
    if modes == {_USER_NONE}:
        return "always enabled"
    if modes & {_USER_PRCTL, _USER_SECCOMP}:
        if atomic_flags & _IB_FORCE:
            return "conditional force disabled"
        disabled = atomic_flags & _IB_DISABLED
        return "conditional disabled" if disabled else "conditional enabled"
    strict = ibpb == _USER_STRICT or stibp in (_USER_STRICT, _USER_STRICT_PREFERRED)
    return "always disabled" if strict else "not affected"


@once_per_program
def boot_cpu_has_bug(prog: Program, name: bytes) -> bool:
    """
    ``boot_cpu_has_bug()``

    :param name: As ``/proc/cpuinfo`` calls the bug.
    """
    try:
        return _has_bug(prog, name)
    except LookupError:
        return False


def _has_bug(prog: Program, name: bytes) -> bool:
    # No type has the number of a bug; the array of their names does.
    flags = prog.symbol("x86_bug_flags")
    length = flags.size // 8 if 0 < flags.size <= _BUGS * 8 else _BUGS // 2
    names = read_pointers(prog, flags.address, length)
    bug = next((i for i, p in enumerate(names) if p and read_string(prog, p, 64) == name), None)
    if bug is None:
        return False
    member = prog.type("struct cpuinfo_x86").member("x86_capability")
    words = member.type.length
    # In x86_capability, the words of bugs are behind those of features.
    first = words - length // 32
    address = prog.symbol("boot_cpu_data").address + member.offset + 4 * first
    data = read_bytes(prog, address, 4 * (length // 32))
    if data is None:
        return False
    bits = struct.unpack(f"{byte_order(prog)}{length // 32}I", data)
    return bool(bits[bug // 32] >> bug % 32 & 1)
