# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine as a whole: its name, processors and memory, and how it ended."""

from __future__ import annotations

import re

from drgn import NULL, FaultError, Object, Program

from drgn_sockets.kernel.memory import read_string

#: ``PANIC_CPU_INVALID`` (include/linux/panic.h): no processor has panicked.
_PANIC_CPU_INVALID = -1
_MAX_BANNER = 512

#: Letters and meanings of the bits of ``tainted_mask`` (Documentation/admin-guide/tainted-kernels).
_TAINTS = (
    *("P proprietary module", "F module was force-loaded", "S out of specification"),
    *("R module was force-unloaded", "M machine check", "B bad page", "U by user space"),
    *("D died: oops or BUG", "A ACPI table overridden", "W warning", "C staging driver"),
    *("I firmware workaround", "O out-of-tree module", "E unsigned module", "L soft lockup"),
    *("K live patched", "X auxiliary", "T structures in random order", "N in-kernel test"),
    *("J fwctl command",),
)


def utsname(prog: Program, member: str) -> bytes:
    """
    A member of the initial UTS namespace's ``struct new_utsname``.

    :raises FaultError: if it cannot be read
    """
    found: bytes = prog["init_uts_ns"].name.member_(member).string_()
    return found


def linux_banner(prog: Program) -> bytes:
    """
    ``linux_banner``, the text of ``/proc/version``.

    :raises FaultError: if it cannot be read
    :raises LookupError: if there is no such symbol
    """
    text = read_string(prog, prog.symbol("linux_banner").address, _MAX_BANNER) or b""
    if not text.startswith(b"Linux version "):
        raise FaultError("linux_banner has another text", prog.symbol("linux_banner").address)
    return text.rstrip(b"\n")


def taints(prog: Program) -> list[str]:
    """
    What taints the kernel: ``tainted_mask``, a letter and words for each bit.

    :raises FaultError: if it cannot be read
    """
    mask = prog["tainted_mask"].value_()
    known = [text for bit, text in enumerate(_TAINTS) if mask >> bit & 1]
    return [*known, *(f"bit {bit}" for bit in range(len(_TAINTS), 64) if mask >> bit & 1)]


def panic_cpu(prog: Program) -> int | None:
    """
    The processor that panicked; ``None`` if none did.

    :raises FaultError: if it cannot be read
    """
    cpu: int = prog["panic_cpu"].counter.value_()
    return None if cpu == _PANIC_CPU_INVALID else cpu


def panic_message(prog: Program) -> bytes | None:
    """
    The line of the kernel's log that says why it panicked; ``None`` if it has none.

    :raises FaultError: if the log cannot be read
    """
    from drgn.helpers.linux.printk import get_dmesg

    log = get_dmesg(prog, timestamps=False)
    if not log.strip(b"\0\n"):
        raise FaultError("the log is empty", 0)
    for pattern in (rb"Kernel panic -.*", rb"BUG: .*|Unable to handle kernel.*|Oops.*"):
        found = re.search(pattern, log)
        if found:
            return found[0]
    return None


def panic_task(prog: Program) -> Object:
    """
    The task that panicked.

    :return: ``struct task_struct *``, ``NULL`` if it is not known
    :raises FaultError: if it cannot be read
    """
    try:
        return prog.crashed_thread().object
    except ValueError:
        return NULL(prog, "struct task_struct *")


def processors(prog: Program) -> tuple[int, int]:
    """
    How many processors are online, and how many there are.

    :raises FaultError: if it cannot be read
    """
    return _weight(prog["__cpu_online_mask"]), _weight(prog["__cpu_present_mask"])


def _weight(mask: Object) -> int:
    return sum(bin(word).count("1") for word in mask.bits.value_())


def totalram_bytes(prog: Program) -> int:
    """
    Memory that the kernel manages, bytes: ``MemTotal`` of ``/proc/meminfo``.

    :raises FaultError: if it cannot be read
    """
    pages = prog["_totalram_pages"].counter.value_()
    return int(pages * prog["PAGE_SIZE"].value_())
