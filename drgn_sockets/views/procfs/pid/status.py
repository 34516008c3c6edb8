# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/PID/status``."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import Program

from drgn_sockets.kernel import process as p
from drgn_sockets.kernel.fdtable import Fdtable, FilesStruct
from drgn_sockets.kernel.memory import page_shift
from drgn_sockets.kernel.mm import (
    MM_ANONPAGES,
    MM_FILEPAGES,
    MM_SHMEMPAGES,
    MM_SWAPENTS,
    Mm,
    has_thp,
    mm_counters,
    mm_untag_mask,
)
from drgn_sockets.kernel.pid import pid_nr_ns
from drgn_sockets.kernel.speculation import indirect_branch, store_bypass
from drgn_sockets.kernel.structs import has_type
from drgn_sockets.kernel.task import PF_KTHREAD
from drgn_sockets.records.process import ProcessRecord
from drgn_sockets.views.procfs.pid.base import PidFile, PidLooker

_MAX_WORD = 32
# arch/x86/include/uapi/asm/prctl.h
_SHADOW_STACKS = ((1, "shstk "), (2, "wrss "))
_NO_NEW_PRIVS = 1


class StatusFile(PidFile):
    """``proc_pid_status()``"""

    name = "status"

    def text(self, at: PidLooker, process: ProcessRecord) -> Iterator[bytes]:
        name = process.name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
        yield b"Name:\t%b\n" % name
        for lines in (_state, _memory, _signals, _capabilities, _security, _places, _switches):
            for what, value in lines(process):
                yield f"{what}:\t{value}\n".encode("ascii")


_Lines = Iterator[tuple[str, object]]


def _state(process: ProcessRecord) -> _Lines:
    """``task_state()``"""
    prog, task, cred = process.prog, process.task, process.cred
    fs = process.fs
    if fs is not None:
        yield "Umask", f"{fs.umask:04o}" if fs.umask else "0000"
    yield "State", p.task_state(task)
    yield "Tgid", task.tgid
    yield "Ngid", p.numa_group_id(prog, task)
    yield "Pid", task.pid
    yield "PPid", process.tgid_of(task.real_parent)
    yield "TracerPid", process.pid_of(task.parent) if task.ptrace else 0
    yield "Uid", "\t".join(map(str, (cred.uid, cred.euid, cred.suid, cred.fsuid)))
    yield "Gid", "\t".join(map(str, (cred.gid, cred.egid, cred.sgid, cred.fsgid)))
    yield "FDSize", _max_fds(prog, task.files)
    yield "Groups", " ".join(map(str, p.groups(prog, cred.group_info))) + " "
    yield from _ids(process)
    if _has_kthread_line(prog):
        yield "Kthread", int(bool(task.flags & PF_KTHREAD))


def _has_kthread_line(prog: Program) -> bool:
    """
    Whether the file has a line ``Kthread:``.

    The line came in v6.9 and changed no type; in the same version Linux kernel commit 91ccc6e7233b
    ("workqueue: Introduce struct wq_node_nr_active") did.
    """
    return has_type(prog, "struct wq_node_nr_active")


def _max_fds(prog: Program, files: int) -> int:
    if not files:
        return 0
    return Fdtable.layout(prog).read(FilesStruct.layout(prog).read(files).fdt).max_fds


def _ids(process: ProcessRecord) -> _Lines:
    own = process.ids
    for what, ids in zip(
        ("NStgid", "NSpid", "NSpgid", "NSsid"),
        (process.group_ids[0], own, *process.group_ids[1:]),
    ):
        numbers = (pid_nr_ns(ids, upid.ns, level) for level, upid in enumerate(own))
        yield what, "\t".join(map(str, numbers))


def _memory(process: ProcessRecord) -> _Lines:
    """``task_mem()`` and the lines that follow it"""
    prog, mm = process.prog, process.mm
    if mm is None:
        return
    shift = page_shift(prog)
    for what, pages in _pages(prog, mm, shift):
        yield what, f"{pages << shift - 10:8} kB"
    text, lib = _text_and_lib(mm, shift)
    yield "VmExe", f"{text >> 10:8} kB"
    yield "VmLib", f"{lib >> 10:8} kB"
    yield "VmPTE", f"{mm.pgtables_bytes >> 10:8} kB"
    yield "VmSwap", f"{_counters(prog, mm)[MM_SWAPENTS] << shift - 10:8} kB"
    if mm.hugetlb_usage is not None:
        yield "HugetlbPages", f"{mm.hugetlb_usage << shift - 10:8} kB"
    dumps = mm.core_state if mm.core_state is not None else process.signal.core_state
    yield "CoreDumping", int(bool(dumps))
    yield "THP_enabled", int(has_thp(prog, mm))
    if _has_untag_mask(prog):
        yield "untag_mask", f"{mm_untag_mask(prog, mm):#x}"


def _has_untag_mask(prog: Program) -> bool:
    """
    Whether the file has a line ``untag_mask:``.

    Linux kernel commit f7d304343b9d ("mm: Expose untagging mask in /proc/$PID/status") (in v6.4)
    changed no type; in the same version 5e31275cc997 ("mm: add per-VMA lock and helper functions
    to control it") did.
    """
    return bool(prog.type("struct mm_struct").has_member("mm_lock_seq"))


def _counters(prog: Program, mm: Mm) -> tuple[int, ...]:
    # Linux kernel commit 82241a83cd15 ("mm: fix the inaccurate memory statistics issue for
    # users") (in v6.16, and in stable kernels)
    return mm_counters(prog, mm, exactly=True)


def _pages(prog: Program, mm: Mm, shift: int) -> Iterator[tuple[str, int]]:
    counters = _counters(prog, mm)
    anon, file, shmem = (counters[i] for i in (MM_ANONPAGES, MM_FILEPAGES, MM_SHMEMPAGES))
    rss = anon + file + shmem
    yield "VmPeak", max(mm.hiwater_vm, mm.total_vm)
    yield "VmSize", mm.total_vm
    yield "VmLck", mm.locked_vm
    yield "VmPin", mm.pinned_vm
    yield "VmHWM", max(mm.hiwater_rss, rss)
    yield "VmRSS", rss
    yield "RssAnon", anon
    yield "RssFile", file
    yield "RssShmem", shmem
    yield "VmData", mm.data_vm
    yield "VmStk", mm.stack_vm


def _text_and_lib(mm: Mm, shift: int) -> tuple[int, int]:
    page = 1 << shift
    executable = mm.exec_vm << shift
    text = min(-(-mm.end_code // page) * page - mm.start_code // page * page, executable)
    return text, executable - text


def _signals(process: ProcessRecord) -> _Lines:
    """``task_sig()``"""
    prog, task = process.prog, process.task
    pending = shared = blocked = threads = queued = limit = 0
    if process.is_known:
        signal = process.signal
        threads, limit = signal.nr_threads, signal.rlim_sigpending
        queued = p.pending_signals(prog, process.cred)
        raw = (task.pending, signal.shared_pending, task.blocked)
        pending, shared, blocked = (p.sigset(prog, bits) for bits in raw)
    yield "Threads", threads
    yield "SigQ", f"{queued}/{limit}"
    names = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
    for name, bits in zip(names, (pending, shared, blocked, *process.ignored_and_caught)):
        yield name, f"{bits:016x}"


def _capabilities(process: ProcessRecord) -> _Lines:
    """``task_cap()``"""
    cred = process.cred
    for name, raw in (
        ("CapInh", cred.cap_inheritable),
        ("CapPrm", cred.cap_permitted),
        ("CapEff", cred.cap_effective),
        ("CapBnd", cred.cap_bset),
        ("CapAmb", cred.cap_ambient),
    ):
        yield name, f"{p.cap_bits(process.prog, raw):016x}"


def _security(process: ProcessRecord) -> _Lines:
    """``task_seccomp()``"""
    prog, task = process.prog, process.task
    yield "NoNewPrivs", int(bool(task.atomic_flags & _NO_NEW_PRIVS))
    if task.seccomp_mode is not None:
        yield "Seccomp", task.seccomp_mode
    if task.seccomp_filters is not None:
        yield "Seccomp_filters", task.seccomp_filters
    yield "Speculation_Store_Bypass", store_bypass(prog, task.atomic_flags)
    if _has_indirect_branch_line(prog):
        yield "SpeculationIndirectBranch", indirect_branch(prog, task.atomic_flags)


def _has_indirect_branch_line(prog: Program) -> bool:
    """
    Whether the file has a line ``SpeculationIndirectBranch:``.

    Linux kernel commit fe719888344c ("proc: provide details on indirect branch speculation") (in
    v5.11) changed no type; in the same version 1446e1df9eb1 ("kernel: Implement selective syscall
    userspace redirection") did.
    """
    return bool(prog.type("struct task_struct").has_member("syscall_dispatch"))


def _places(process: ProcessRecord) -> _Lines:
    """``task_cpus_allowed()`` and ``cpuset_task_status_allowed()``"""
    prog, task = process.prog, process.task
    for what, mask, bits in (
        ("Cpus_allowed", task.cpus_mask, _nr_cpu_ids(prog)),
        ("Mems_allowed", task.mems_allowed, _max_numnodes(prog)),
    ):
        if mask is not None:
            count = bits or 8 * len(mask)
            value = p.cpu_bits(prog, mask) & (1 << count) - 1
            yield what, bitmap(value, count)
            yield f"{what}_list", bitmap_list(value)


def _nr_cpu_ids(prog: Program) -> int:
    try:
        return int(prog["nr_cpu_ids"].value_())
    except LookupError:
        # CONFIG_FORCE_NR_CPUS=y
        return 0


def _max_numnodes(prog: Program) -> int:
    """``MAX_NUMNODES``: a list of zones has room for those of all nodes, and one more entry."""
    zones = prog.type("struct pglist_data").member("node_zones").type.length
    length = prog.type("struct zonelist").member("_zonerefs").type.length
    return int((length - 1) // zones)


def bitmap(value: int, count: int) -> str:
    """``%*pb``: *count* bits, in words of 32."""
    words: list[str] = []
    for first in range(0, count, _MAX_WORD):
        digits = -(-min(count - first, _MAX_WORD) // 4)
        words.append(f"{value >> first & 0xFFFFFFFF:0{digits}x}")
    return ",".join(reversed(words))


def bitmap_list(value: int) -> str:
    """``%*pbl``: the ranges of the bits that are set."""
    ranges: list[str] = []
    bit = 0
    while value >> bit:
        if value >> bit & 1:
            last = bit
            while value >> last + 1 & 1:
                last += 1
            ranges.append(str(bit) if last == bit else f"{bit}-{last}")
            bit = last
        bit += 1
    return ",".join(ranges)


def _switches(process: ProcessRecord) -> _Lines:
    """``task_context_switch_counts()``, ``arch_proc_pid_thread_features()``"""
    task = process.task
    yield "voluntary_ctxt_switches", task.nvcsw
    yield "nonvoluntary_ctxt_switches", task.nivcsw
    thread = p.thread_features(process.prog, task)
    if thread is not None:
        yield "x86_Thread_features", _features(thread.features)
        yield "x86_Thread_features_locked", _features(thread.features_locked)


def _features(bits: int | None) -> str:
    return "".join(word for bit, word in _SHADOW_STACKS if (bits or 0) & bit)
