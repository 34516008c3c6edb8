# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory of a process: ``struct mm_struct``, its counters, and its command line."""

from __future__ import annotations

import struct

from drgn import Architecture, FaultError, Object, Program, TypeKind, sizeof

from drgn_sockets.kernel.lost import unbroken
from drgn_sockets.kernel.memory import architecture, has_holes, page_shift, pointer_size
from drgn_sockets.kernel.percpu import per_cpu_sums
from drgn_sockets.kernel.structs import Bytes, Int, OptInt, Struct
from drgn_sockets.kernel.symbols import has_symbol
from drgn_sockets.kernel.task import PF_KTHREAD, Process
from drgn_sockets.kernel.vma import VM_READ, all_mappings
from drgn_sockets.program import byte_order

# include/linux/mm_types_task.h
MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES = range(4)
# include/linux/mm_types.h, or sched/coredump.h
_MMF_DISABLE_THP = 24
# execve() takes at most this many bytes of arguments, and no stack is larger.
_MAX_ARGUMENTS = 6 << 20


class Mm(Struct):
    """``struct mm_struct``."""

    C_TYPE = "struct mm_struct"

    total_vm = Int("total_vm", help="pages")
    hiwater_vm = Int("hiwater_vm", help="pages")
    hiwater_rss = Int("hiwater_rss", help="pages")
    locked_vm = Int("locked_vm", help="pages")
    pinned_vm = Int("pinned_vm.counter", "pinned_vm", help="pages")
    data_vm = Int("data_vm", help="pages")
    exec_vm = Int("exec_vm", help="pages")
    stack_vm = Int("stack_vm", help="pages")
    pgtables_bytes = Int("pgtables_bytes.counter", help="bytes")
    hugetlb_usage = OptInt("hugetlb_usage.counter", help="pages")
    start_code = Int("start_code")
    end_code = Int("end_code")
    start_data = Int("start_data")
    end_data = Int("end_data")
    start_brk = Int("start_brk")
    start_stack = Int("start_stack")
    arg_start = Int("arg_start")
    arg_end = Int("arg_end")
    env_start = Int("env_start")
    env_end = Int("env_end")
    exe_file = Int("exe_file", help="struct file *")
    flags = Bytes("flags", help="MMF_* bits")
    rss_stat = Bytes("rss_stat", help="numbers of pages")
    # Newer kernels have core_state in struct signal_struct, see process.Signal.
    core_state = OptInt("core_state", help="struct core_state *")
    # Linux kernel commit 74c228d20a51 ("x86/uaccess: Provide untagged_addr() and remove tags
    # before address check") (in v6.4)
    untag_mask = OptInt("context.untag_mask", help="x86, with CONFIG_ADDRESS_MASKING")
    # arch/riscv/include/asm/mmu.h, since v6.13
    pmlen = OptInt("context.pmlen", help="bits of a tag on RISC-V, with CONFIG_RISCV_ISA_SUPM")


def mm_untag_mask(prog: Program, mm: Mm) -> int:
    """``mm_untag_mask()``: the bits of a pointer that are no tag."""
    if mm.untag_mask is not None:
        return mm.untag_mask
    # arch/arm64/include/asm/mmu_context.h
    tag = 8 if architecture(prog) == Architecture.AARCH64 else mm.pmlen or 0
    return (1 << 8 * pointer_size(prog)) - 1 >> tag


def task_mm(prog: Program, task: Process) -> Mm | None:
    """
    Memory of a task, as ``get_task_mm()``.

    :return: ``None`` for a kernel thread, and for a process that has exited
    :raises FaultError: if it cannot be read
    """
    if not task.mm or task.flags & PF_KTHREAD:
        return None
    return Mm.layout(prog).read(task.mm)


def mm_counters(prog: Program, mm: Mm, *, exactly: bool) -> tuple[int, ...]:
    """
    Pages by kind: ``MM_FILEPAGES``, ``MM_ANONPAGES``, ``MM_SWAPENTS``, ``MM_SHMEMPAGES``.

    :param exactly: Include what each processor has yet to add, as ``get_mm_counter_sum()``.
    :raises FaultError: if they cannot be read
    """
    type_ = prog.type("struct mm_struct").member("rss_stat").type
    order = byte_order(prog)
    # Linux kernel commit f1a7941243c1 ("mm: convert mm's rss stats into percpu_counter") (in
    # v6.2)
    if type_.kind != TypeKind.ARRAY:
        return tuple(max(0, n) for n in struct.unpack_from(f"{order}4q", mm.rss_stat))
    counter = type_.type
    size, at = sizeof(counter), counter.member("count").offset
    counters = []
    for i in range(4):
        (count,) = struct.unpack_from(f"{order}q", mm.rss_stat, i * size + at)
        if exactly and counter.has_member("counters"):
            (address,) = struct.unpack_from(
                f"{order}Q", mm.rss_stat, i * size + counter.member("counters").offset
            )
            count += per_cpu_sums(prog, address, "i")[0]
        counters.append(max(0, count))
    return tuple(counters)


def has_thp(prog: Program, mm: Mm) -> bool:
    """Whether the process may have transparent huge pages."""
    # Its thread is there with CONFIG_TRANSPARENT_HUGEPAGE only, which kernels with PREEMPT_RT lack.
    if not has_symbol(prog, "khugepaged"):
        return False
    order = "little" if byte_order(prog) == "<" else "big"
    word = int.from_bytes(mm.flags[:8], order)  # type: ignore[arg-type]
    return not word >> _MMF_DISABLE_THP & 1


def cmdline(prog: Program, mm: Mm) -> bytes:
    """
    Get the command line of a process, as ``get_mm_cmdline()``. It ends where memory is not
    anonymous.

    :raises FaultError: if the pages are not there: swapped out, or not in the core
    """
    start, end = mm.arg_start, mm.arg_end
    if not mm.env_end or start >= end or end - start > _MAX_ARGUMENTS:
        return b""
    if _read_user(prog, mm, end - 1, 1) in (b"\0", b""):
        return _read_user(prog, mm, start, end - start)
    # setproctitle(3) has overwritten the arguments, and the title goes on in the environment.
    last = mm.env_end if mm.env_start == end and mm.env_end >= end else end
    size = min(last - start, 1 << page_shift(prog))
    title = _read_user(prog, mm, start, size)
    return title[: title.find(b"\0") + 1] or title


def _anonymous(prog: Program, mm: Mm, address: int, size: int) -> int:
    """Get how many bytes at *address* ``access_remote_vm(…, FOLL_ANON)`` would read."""
    if mm.start_stack <= address and address + size <= mm.env_end:
        # execve() has put these bytes on the stack.
        return size
    end = address
    for vma in unbroken(all_mappings(prog, mm.address)):
        if vma.start <= end < vma.end:
            if vma.ops or not vma.flags & VM_READ:
                break
            end = vma.end
    return min(end - address, size)


def _read_user(prog: Program, mm: Mm, address: int, size: int) -> bytes:
    # The import takes 34 ms: it imports all of drgn's helpers.
    from drgn.helpers.linux.mm import access_remote_vm

    size = _anonymous(prog, mm, address, size)
    if not size:
        return b""
    page = 1 << page_shift(prog)
    # Whole pages, where one that is all zeros may have been left out.
    before, after = (address % page, -(address + size) % page) if has_holes(prog) else (0, 0)
    try:
        data: bytes = access_remote_vm(
            Object(prog, "struct mm_struct *", mm.address), address - before, before + size + after
        )
    except (LookupError, ValueError, NotImplementedError) as e:
        raise FaultError(f"page tables cannot be walked: {e}", address) from None
    if has_holes(prog):
        for at in range(0, len(data), page):
            if not any(data[at : at + page]):
                raise FaultError("the core may lack this page", address - before + at)
    return data[before : before + size]
