# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Lines of ``/proc/PID/status`` about mitigations: ``arch_prctl_spec_ctrl_get()`` of
arch/x86/kernel/cpu/bugs.c and arch/arm64/kernel/proton-pack.c. Other architectures that drgn knows
have only the weak one of kernel/sys.c, which knows of no mitigation.
"""

from __future__ import annotations

import struct

from drgn import Architecture, FaultError, Program

from drgn_sockets.kernel.memory import architecture, read_bytes, read_pointers, read_string
from drgn_sockets.kernel.process import read_word
from drgn_sockets.program import byte_order, once_per_program

_X86 = (Architecture.X86_64, Architecture.I386)
# arch/x86/include/asm/nospec-branch.h: enum ssb_mitigation
_SSB_DISABLE, _SSB_PRCTL, _SSB_SECCOMP = 1, 2, 3
# enum spectre_v2_user_mitigation
_USER_NONE, _USER_STRICT, _USER_STRICT_PREFERRED, _USER_PRCTL, _USER_SECCOMP = range(5)
# arch/arm64/include/asm/spectre.h: enum mitigation_state
_SPECTRE_UNAFFECTED, _SPECTRE_MITIGATED = 0, 1
# arch/arm64/kernel/proton-pack.c: enum spectre_v4_policy
_V4_DYNAMIC, _V4_ENABLED = 0, 1
# kernel/cpu.c: enum cpu_mitigations
_CPU_MITIGATIONS_OFF = 0
# include/linux/sched.h: PFA_* bits
_SSB_DISABLED, _SSB_FORCE, _IB_DISABLED, _IB_FORCE, _SSB_NOEXEC = (1 << i for i in range(3, 8))
# arch/x86/include/asm/cpufeatures.h: NBUGINTS has grown.
_BUGS = 2 * 32


def store_bypass(prog: Program, atomic_flags: int) -> str:
    """
    Get the text of the line ``Speculation_Store_Bypass``.

    :param atomic_flags: PFA_* bits of the task
    :raises LookupError: if a variable that tells is not found
    :raises FaultError: if it cannot be read
    """
    arch = architecture(prog)
    if arch in _X86:
        mode = read_word(prog, "ssb_mode")
        if mode is None:
            return "unknown"
        if mode == _SSB_DISABLE:
            return "globally mitigated"
        if mode in (_SSB_PRCTL, _SSB_SECCOMP):
            return _of_thread(atomic_flags)
        return "vulnerable" if boot_cpu_has_bug(prog, b"spec_store_bypass") else "not vulnerable"
    if arch == Architecture.AARCH64:
        # Linux kernel commit c28762070ca6 ("arm64: Rewrite Spectre-v4 mitigation code") (in v5.10)
        state = _variable(prog, "spectre_v4_state")
        if state == _SPECTRE_UNAFFECTED:
            return "not vulnerable"
        if state != _SPECTRE_MITIGATED:
            return "vulnerable"
        policy = _variable(prog, "__spectre_v4_policy")
        if policy == _V4_ENABLED:
            return "not vulnerable"
        if policy == _V4_DYNAMIC and _variable(prog, "cpu_mitigations") != _CPU_MITIGATIONS_OFF:
            return _of_thread(atomic_flags)
        return "vulnerable"
    return "unknown"


def _of_thread(atomic_flags: int) -> str:
    if atomic_flags & _SSB_FORCE:
        return "thread force mitigated"
    if atomic_flags & _SSB_NOEXEC:
        return "vulnerable"
    return "thread mitigated" if atomic_flags & _SSB_DISABLED else "thread vulnerable"


@once_per_program
def _variable(prog: Program, name: str) -> int:
    """Read an ``int`` that has no type in BTF, and that must be there."""
    address = prog.symbol(name).address
    value = read_word(prog, name)
    if value is None:
        raise FaultError(f"{name} cannot be read", address)
    return value


def indirect_branch(prog: Program, atomic_flags: int) -> str:
    """Get the text of the line ``SpeculationIndirectBranch``, see :func:`store_bypass`."""
    arch = architecture(prog)
    if arch not in _X86:
        # arm64 says that it has no such control.
        return "unknown" if arch == Architecture.AARCH64 else "unsupported"
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
