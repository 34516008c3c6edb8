# SPDX-License-Identifier: LGPL-2.1-or-later
"""io_uring: io_uring/fdinfo.c, and fs/io_uring.c of old."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from drgn import FaultError, Object, Program, offsetof, sizeof

from drgn_sockets.kernel.dcache import Dentry
from drgn_sockets.kernel.file import File
from drgn_sockets.kernel.lists import hlist_for_each_entry, list_for_each
from drgn_sockets.kernel.lost import Lost, lost_by, or_lost, raise_lost, sift, unreadable
from drgn_sockets.kernel.memory import UNREADABLE, read_pointers, read_string
from drgn_sockets.kernel.structs import Int, OptInt, Struct, c_string
from drgn_sockets.kernel.task import Task
from drgn_sockets.program import byte_order
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.text import plain

T = TypeVar("T")

# include/uapi/linux/io_uring.h
_IORING_SETUP_SQPOLL = 1 << 1
_IORING_SETUP_SQE128 = 1 << 10
_IORING_SETUP_CQE32 = 1 << 11
_IORING_SETUP_NO_SQARRAY = 1 << 16
_IORING_CQE_F_32 = 1 << 15
_SETUP_FLAGS = [
    "iopoll",
    "sqpoll",
    "sq_aff",
    "cqsize",
    "clamp",
    "attach_wq",
    "r_disabled",
    "submit_all",
    "coop_taskrun",
    "taskrun_flag",
    "sqe128",
    "cqe32",
    "single_issuer",
    "defer_taskrun",
    "no_mmap",
    "registered_fd_only",
    "no_sqarray",
    "hybrid_iopoll",
    "cqe_mixed",
    "sqe_mixed",
]
_SQE_SIZE, _CQE_SIZE = 64, 16
# include/linux/mutex.h: the low bits of a mutex's owner are flags; the rest is a task's address.
# Of an rt_mutex, only the lowest is.
_MUTEX_FLAGS = 7
# io_uring/filetable.h: FFS_MASK. The low bits of the pointer are flags.
_FILE_MASK = ~7
# No kernel allows more (IORING_MAX_ENTRIES, IORING_MAX_FIXED_FILES, …).
_MAX_ENTRIES = 1 << 17
_MAX_REGISTERED = 1 << 20
_MAX_REQUESTS = 1 << 16
_MAX_HASH_BITS = 20
_NULL_PAGE = 1 << 12


class IoRingCtx(Struct):
    """``struct io_ring_ctx``."""

    C_TYPE = "struct io_ring_ctx"

    flags = Int("flags", help="IORING_SETUP_*")
    rings = Int("rings", help="struct io_rings *")
    # Linux kernel commit bb630f9f7a7d ("locking/rtmutex: Add mutex variant for RT") (in v5.15):
    # with PREEMPT_RT a mutex is an rt_mutex.
    lock_owner = Int(
        "uring_lock.owner.counter",
        "uring_lock.rtmutex.owner",
        help="who holds uring_lock, and its flags",
    )
    sq_array = Int("sq_array", help="u32 *")
    sq_sqes = Int("sq_sqes", help="struct io_uring_sqe *")
    sq_entries = Int("sq_entries", help="entries of the submission queue")
    cq_entries = Int("cq_entries", help="entries of the completion queue")
    cached_sq_head = Int("cached_sq_head", help="the kernel's own head of the submission queue")
    cached_cq_tail = Int("cached_cq_tail", help="the kernel's own tail of the completion queue")
    sq_data = Int("sq_data", help="struct io_sq_data *, with a thread that submits")
    # Linux kernel commit 3597f2786b68 ("io_uring/rsrc: unify file and buffer resource tables")
    # (in v6.13) replaced files, nr_user_files, user_bufs and nr_user_bufs by the next four.
    file_nodes = OptInt("file_table.data.nodes", help="struct io_rsrc_node **")
    nr_file_nodes = OptInt("file_table.data.nr", help="how many there are")
    buf_nodes = OptInt("buf_table.nodes", help="struct io_rsrc_node **")
    nr_buf_nodes = OptInt("buf_table.nr", help="how many there are")
    files = OptInt("file_table.files", help="struct io_fixed_file *")
    nr_user_files = OptInt("nr_user_files", help="how many there are")
    user_bufs = OptInt("user_bufs", help="struct io_mapped_ubuf **")
    nr_user_bufs = OptInt("nr_user_bufs", help="how many there are")
    # Linux kernel commits e6f89be61410 ("io_uring: introduce a struct for hash table") and
    # 9ca9fb24d5fe ("io_uring: mutex locked poll hashing") (in v6.0) made two tables of this one;
    # v6.13 and later have one table again.
    cancel_hash = OptInt("cancel_hash", help="struct hlist_head *")
    cancel_hash_bits = OptInt("cancel_hash_bits", help="how many there are, as a power of 2")
    cancel_hbs = OptInt("cancel_table.hbs", help="struct io_hash_bucket *")
    cancel_hbs_bits = OptInt("cancel_table.hash_bits", help="the same")
    locked_hbs = OptInt("cancel_table_locked.hbs", help="struct io_hash_bucket *")
    # Linux kernel commit 8d0c12a80cde ("io-uring: add napi busy poll support") (in v6.9), and
    # 6bf90bd8c58a ("io_uring/napi: add static napi tracking strategy") (in v6.13).
    napi_enabled = OptInt("napi_enabled", help="whether it polls network devices")
    napi_track_mode = OptInt("napi_track_mode", help="how it tracks these")
    napi_dt = OptInt("napi_busy_poll_dt", help="for how long it polls")
    napi_prefer = OptInt("napi_prefer_busy_poll", help="whether it prefers to")


class IoRings(Struct):
    """``struct io_rings``, which is shared with user space."""

    C_TYPE = "struct io_rings"

    sq_head = Int("sq.head", help="where the kernel is")
    sq_tail = Int("sq.tail", help="where user space is")
    cq_head = Int("cq.head", help="where user space is")
    cq_tail = Int("cq.tail", help="where the kernel is")


class _SqData(Struct):
    C_TYPE = "struct io_sq_data"

    thread = Int("thread")
    sq_cpu = Int("sq_cpu")
    # Linux kernel commit 3fcb9d17206e ("io_uring/sqpoll: statistics of the true utilization of
    # sq threads") (in v6.9).
    work_time = OptInt("work_time")


class _Ubuf(Struct):
    C_TYPE = "struct io_mapped_ubuf"

    ubuf = Int("ubuf")
    # Newer kernels keep the length of a buffer, older kernels its end.
    len = OptInt("len")
    ubuf_end = OptInt("ubuf_end")


class _RsrcNode(Struct):
    C_TYPE = "struct io_rsrc_node"

    file_ptr = Int("file_ptr")
    buf = Int("buf")


class _Request(Struct):
    C_TYPE = "struct io_kiocb"

    opcode = Int("opcode")
    # Linux kernel commit b6f58a3f4aa8 ("io_uring: move struct io_kiocb from task_struct to
    # io_uring_task") (in v6.13).
    task = OptInt("task")
    tctx = OptInt("tctx")
    next = Int("hash_node.next")


class _Tctx(Struct):
    C_TYPE = "struct io_uring_task"

    task = OptInt("task")


class SqThread(NamedTuple):
    """The kernel thread that submits requests (IORING_SETUP_SQPOLL)."""

    pid: int = -1
    cpu: int = -1
    total_us: int = 0
    work_us: int = 0


class Ring(NamedTuple):
    """An io_uring with its queues, registered files and buffers."""

    ctx: IoRingCtx
    rings: IoRings
    thread: SqThread
    # In each list, a Lost stands for an entry that cannot be read.
    #: Names of registered files by slot, as fdinfo writes them; ``None`` for an empty slot.
    file_names: Sequence[bytes | Lost | None]
    #: Registered buffers by slot: address and length, ``None`` for an empty slot.
    bufs: Sequence[tuple[int, int] | Lost | None]
    #: Requests that wait for an event: opcode, and whether task work is pending.
    polls: Sequence[tuple[int, bool] | Lost]
    #: Completions for which the queue had no room: user_data, res, flags.
    overflow: Sequence[tuple[int, int, int] | Lost]

    @property
    def locked(self) -> bool:
        """Whether a task holds ``uring_lock``; fdinfo then shows less, or nothing."""
        return bool(self.ctx.lock_owner & ~_MUTEX_FLAGS)


class _Reader:
    def __init__(self, file: FileRecord) -> None:
        self.file = file
        self.prog = file.prog
        self.ctx = IoRingCtx.layout(self.prog).read(file.private_data)

    def _pointers(self, address: int, count: int) -> Sequence[int]:
        if count > _MAX_REGISTERED:
            raise FaultError("more slots than there can be", self.ctx.address)
        return read_pointers(self.prog, address, count) if count else ()

    def file_names(self) -> Sequence[bytes | Lost | None]:
        ctx = self.ctx
        if ctx.file_nodes is not None:
            return self._slots(ctx.file_nodes, ctx.nr_file_nodes, self._node_file)
        if ctx.files is None:
            raise LookupError("this kernel keeps registered files in another way")
        return self._slots(ctx.files, ctx.nr_user_files, self._file_name)

    def _slots(
        self, address: int | None, count: int | None, read: Callable[[int], T | None]
    ) -> Sequence[T | Lost | None]:
        """Read what each pointer in an array of slots points to; ``None`` for a null pointer."""
        count = count or 0
        try:
            slots = self._pointers(address or 0, count)
        except FaultError as e:
            return [lost_by(e)] * min(count, _MAX_REGISTERED)
        return [or_lost(read, slot) if slot else None for slot in slots]

    def _node_file(self, node: int) -> bytes | None:
        return self._file_name(_RsrcNode.layout(self.prog).read(node).file_ptr)

    def _file_name(self, pointer: int) -> bytes | None:
        address = pointer & _FILE_MASK
        if not address:
            return None
        file = File.layout(self.prog).read(address)
        if self.ctx.file_nodes is not None:
            return _mangle(self.file.namer.d_path(file.mnt, file.dentry))
        return c_string(Dentry.layout(self.prog).read(file.dentry).shortname)

    def bufs(self) -> Sequence[tuple[int, int] | Lost | None]:
        ctx = self.ctx
        if ctx.buf_nodes is not None:
            return self._slots(ctx.buf_nodes, ctx.nr_buf_nodes, self._node_buf)
        return self._slots(ctx.user_bufs, ctx.nr_user_bufs, self._buf)

    def _node_buf(self, node: int) -> tuple[int, int] | None:
        address = _RsrcNode.layout(self.prog).read(node).buf
        return self._buf(address) if address else None

    def _buf(self, address: int) -> tuple[int, int]:
        buf = _Ubuf.layout(self.prog).read(address)
        if buf.len is not None:
            return buf.ubuf, buf.len
        return buf.ubuf, ((buf.ubuf_end or 0) - buf.ubuf) & 0xFFFFFFFF

    def thread(self) -> SqThread:
        ctx = self.ctx
        if not ctx.flags & _IORING_SETUP_SQPOLL or not ctx.sq_data:
            return SqThread()
        data = _SqData.layout(self.prog).read(ctx.sq_data)
        if not data.thread:
            return SqThread()
        task = Task.layout(self.prog).read(data.thread)
        if data.work_time is None:
            return SqThread(task.pid, task.cpu or 0)
        total = _stime_us(Object(self.prog, "struct task_struct *", data.thread))
        return SqThread(task.pid, data.sq_cpu, total, data.work_time)

    def polls(self) -> list[tuple[int, bool] | Lost]:
        """Requests that wait for an event, in the order of their hash buckets."""
        found: list[tuple[int, bool] | Lost] = []
        try:
            for head in self._buckets():
                found += self._requests(head)
        except FaultError as e:
            found.append(lost_by(e))
        return found

    def _buckets(self) -> Iterator[int]:
        """The first node of each hash bucket."""
        ctx = self.ctx
        if ctx.cancel_hash is not None:
            tables, bits, size, first = [ctx.cancel_hash], ctx.cancel_hash_bits, 8, 0
        else:
            bucket = self.prog.type("struct io_hash_bucket")
            tables = [table for table in (ctx.cancel_hbs, ctx.locked_hbs) if table]
            bits, size, first = ctx.cancel_hbs_bits, sizeof(bucket), offsetof(bucket, "list")
        if bits is None or bits > _MAX_HASH_BITS:
            raise FaultError("more buckets than there can be", ctx.address)
        heads = []
        for table in tables:
            words = self._pointers(table, (size << bits) // 8)
            heads.append(words[first // 8 :: size // 8])
        for bucket_heads in zip(*heads):
            yield from bucket_heads

    def _requests(self, node: int) -> Iterator[tuple[int, bool] | Lost]:
        layout = _Request.layout(self.prog)
        for request in hlist_for_each_entry(layout, node, "next", _MAX_REQUESTS):
            yield request if isinstance(request, Lost) else or_lost(self._request, request)

    def _request(self, request: _Request) -> tuple[int, bool]:
        task = request.task
        if task is None:
            task = _Tctx.layout(self.prog).read(request.tctx or 0).task or 0
        return request.opcode, bool(Task.layout(self.prog).read(task).task_works)

    def overflow(self) -> list[tuple[int, int, int] | Lost]:
        type_ = self.prog.type("struct io_overflow_cqe")
        offset, cqe = offsetof(type_, "list"), offsetof(type_, "cqe")
        head = self.ctx.address + offsetof(self.prog.type("struct io_ring_ctx"), "cq_overflow_list")
        form = struct.Struct(byte_order(self.prog) + "QiI")

        def completion(node: int) -> tuple[int, int, int]:
            user_data, res, flags = form.unpack(_bytes(self.prog, node - offset + cqe, _CQE_SIZE))
            return user_data, res, flags

        return [
            node if isinstance(node, Lost) else or_lost(completion, node)
            for node in list_for_each(self.prog, head, _MAX_ENTRIES)
        ]


def _bytes(prog: Program, address: int, size: int) -> bytes:
    if address < _NULL_PAGE:
        raise FaultError("not an address", address)
    try:
        data: bytes = prog.read(address, size)
    except UNREADABLE:
        raise unreadable("queue of an io_uring", address) from None
    return data


def _stime_us(task: Object) -> int:
    """``io_sq_cpu_usec()``: the system time of ``task_cputime_adjusted()``."""
    rtime = task.se.sum_exec_runtime.value_()
    prev_stime = task.prev_cputime.stime.value_()
    prev_utime = task.prev_cputime.utime.value_()
    stime, utime = task.stime.value_(), task.utime.value_()
    if prev_stime + prev_utime >= rtime:
        return int(prev_stime // 1000)
    if stime and not utime:
        stime = rtime
    elif stime:
        stime = min(stime * rtime // (stime + utime), rtime)
    stime = max(stime, prev_stime)
    if rtime - stime < prev_utime:
        stime = rtime - prev_utime
    return int(stime // 1000)


def _mangle(path: bytes) -> bytes:
    r"""``mangle_path(…, " \t\n\\")`` of fs/seq_file.c."""
    return b"".join(b"\\%03o" % c if c in b" \t\n\\" else bytes((c,)) for c in path)


def _opcode(prog: Program, opcode: int) -> bytes:
    """``io_uring_get_opcode()``"""
    # Linux kernel commit f30bd4d03824 ("io_uring: Split io_issue_def struct") (in v6.3) moved the
    # names to io_cold_defs.
    for table, type_ in (("io_cold_defs", "io_cold_def"), ("io_op_defs", "io_op_def")):
        try:
            address = prog.symbol(table).address
            c_type = prog.type(f"struct {type_}")
        except LookupError:
            continue
        last = prog.constant("IORING_OP_LAST").value_()
        if opcode >= last:
            return b"INVALID"
        name = prog.read_word(address + opcode * sizeof(c_type) + offsetof(c_type, "name"))
        return read_string(prog, name, 64) or b"INVALID"
    raise FaultError("names of operations cannot be read", 0)


class IoUring(Kind):
    """An io_uring."""

    name = "io_uring"
    fops = ("io_uring_fops",)
    fields = (
        Field("sq_entries", "entries of the submission queue", lambda it: it.ctx.sq_entries),
        Field("cq_entries", "entries of the completion queue", lambda it: it.ctx.cq_entries),
        Field(
            "sq_pending",
            "submissions that the kernel has not taken",
            lambda it: (it.rings.sq_tail - it.rings.sq_head) & 0xFFFFFFFF,
        ),
        Field(
            "cq_pending",
            "completions that nobody has seen",
            lambda it: (it.rings.cq_tail - it.rings.cq_head) & 0xFFFFFFFF,
        ),
        Field("cq_overflow", "completions without room", lambda it: len(it.overflow), False),
        Field("files", "slots for registered files", lambda it: len(it.file_names)),
        Field("bufs", "slots for registered buffers", lambda it: len(it.bufs)),
        Field("polls", "requests that wait", lambda it: len(it.polls)),
        Field(
            "registered_files",
            "registered files: slot:name, …",
            lambda it: [f"{i}:{plain(n)}" for i, n in enumerate(it.file_names) if n is not None],
            False,
        ),
        Field(
            "registered_bufs",
            "registered buffers: slot:address/bytes, …",
            lambda it: [f"{i}:{_buf_text(b)}" for i, b in enumerate(it.bufs) if b is not None],
            False,
        ),
        Field(
            "setup_flags",
            "IORING_SETUP_* flags",
            lambda it: [n for i, n in enumerate(_SETUP_FLAGS) if it.ctx.flags >> i & 1],
            False,
        ),
        Field(
            "sq_thread",
            "thread ID of the kernel thread that submits (IORING_SETUP_SQPOLL)",
            lambda it: it.thread.pid if it.thread.pid >= 0 else None,
        ),
    )

    def read(self, file: FileRecord) -> Ring:
        reader = _Reader(file)
        return Ring(
            reader.ctx,
            IoRings.layout(file.prog).read(reader.ctx.rings),
            reader.thread(),
            reader.file_names(),
            reader.bufs(),
            reader.polls(),
            reader.overflow(),
        )

    def fdinfo(self, file: FileRecord, it: Ring) -> Iterator[bytes]:
        """``io_uring_show_fdinfo()``"""
        # The text changed step by step from v6.13 on; only those up to v6.12, of v6.18 and the
        # newest one are known here. The member that commit 3597f2786b68 (see above) added in v6.13
        # tells the first apart, _cqe_text() the others.
        new = it.ctx.file_nodes is not None
        if new and it.locked:
            return
        if _has_queues(file.prog):
            yield from _queues(file.prog, it, new)
        lost: list[Lost] = []
        yield from _registered(file.prog, it, new, lost)
        yield b"PollList:\n"
        for opcode, pending in sift(it.polls, lost.append):
            yield b"  op=%d, task_works=%d\n" % (opcode, pending)
        if _has_queues(file.prog):
            yield b"CqOverflowList:\n"
            for user_data, res, flags in sift(it.overflow, lost.append):
                yield b"  user_data=%d, res=%d, flags=%x\n" % (user_data, res, flags)
        yield from _napi(it.ctx)
        raise_lost(lost)


def _has_queues(prog: Program) -> bool:
    """
    Whether the kernel shows the queues.

    Linux kernel commit 83f84356bc8f ("io_uring: add more uring info to fdinfo for debug") (in
    v5.16) changed no type. Commit 6f33b0bc4ea4 ("io_uring: use slist for completion batching") of
    the same version replaced the array ``compl_reqs`` and its length ``compl_nr`` by a list.
    """
    return not prog.type("struct io_submit_state").has_member("compl_nr")


def _queues(prog: Program, it: Ring, new: bool) -> Iterator[bytes]:
    ctx, rings = it.ctx, it.rings
    sq_mask, cq_mask = ctx.sq_entries - 1, ctx.cq_entries - 1
    sqes = (rings.sq_tail - rings.sq_head) & 0xFFFFFFFF
    cqes = (rings.cq_tail - rings.cq_head) & 0xFFFFFFFF
    yield b"SqMask:\t0x%x\n" % sq_mask
    yield b"SqHead:\t%d\n" % rings.sq_head
    yield b"SqTail:\t%d\n" % rings.sq_tail
    yield b"CachedSqHead:\t%d\n" % ctx.cached_sq_head
    yield b"CqMask:\t0x%x\n" % cq_mask
    yield b"CqHead:\t%d\n" % rings.cq_head
    yield b"CqTail:\t%d\n" % rings.cq_tail
    yield b"CachedCqTail:\t%d\n" % ctx.cached_cq_tail
    yield b"SQEs:\t%d\n" % sqes
    for i in range(min(sqes, ctx.sq_entries, _MAX_ENTRIES)):
        entry = (rings.sq_head + i) & sq_mask
        if ctx.flags & _IORING_SETUP_NO_SQARRAY:
            if not new:
                break
        else:
            order = byte_order(prog) + "I"
            (entry,) = struct.unpack(order, _bytes(prog, ctx.sq_array + 4 * entry, 4))
        if entry <= sq_mask:
            yield _sqe(prog, ctx, entry)
    yield b"CQEs:\t%d\n" % cqes
    count = min(cqes, ctx.cq_entries, _MAX_ENTRIES)
    yield from _new_cqes(prog, it, count) if new else _old_cqes(prog, it, count)


def _sqe(prog: Program, ctx: IoRingCtx, index: int) -> bytes:
    big = bool(ctx.flags & _IORING_SETUP_SQE128)
    order, size = byte_order(prog), _SQE_SIZE << big
    data = _bytes(prog, ctx.sq_sqes + index * size, size)
    opcode, flags, _, fd, off, addr, _, rw_flags, user_data, buf_index = struct.unpack_from(
        order + "BBHiQQIIQH", data
    )
    extra = struct.unpack_from(order + "8Q", data, _SQE_SIZE) if big else ()
    return (
        b"%5d: opcode:%b, fd:%d, flags:%x, off:%d, addr:0x%x, rw_flags:0x%x, buf_index:%d "
        b"user_data:%d%b\n"
        % (
            *(index, _opcode(prog, opcode), fd, flags, off, addr, rw_flags, buf_index, user_data),
            b"".join(b", e%d:0x%x" % pair for pair in enumerate(extra)),
        )
    )


def _cqe(prog: Program, it: Ring, slot: int) -> tuple[int, ...]:
    """
    Read a slot of the completion queue and the next one.

    :return: user_data, res and flags of the slot, and the next one's two words, which are extra1
        and extra2 of a completion of 32 bytes
    """
    cqes = it.rings.address + offsetof(prog.type("struct io_rings"), "cqes")
    data = _bytes(prog, cqes + slot * _CQE_SIZE, 2 * _CQE_SIZE)
    return struct.unpack(byte_order(prog) + "QiIQQ", data)


# The kernel writes the second newline, too.
_CQE, _BIG_CQE = b"%5d: user_data:%d, res:%d, flag:%x", b", extra1:%d, extra2:%d\n\n"
_NEW_CQE, _NEW_BIG_CQE = b"%5d: user_data:%d, res:%d, flags:%x", b", extra1:%d, extra2:%d\n"


def _cqe_text(prog: Program) -> tuple[bytes, bytes]:
    """
    The text of a completion, and what follows it if the completion has 32 bytes.

    Linux kernel commit 59f44afbe8cf ("io_uring: fix typos and comment wording") (in v6.19) changed
    no type. IORING_OP_NOP128 is of the same version.
    """
    try:
        prog.constant("IORING_OP_NOP128")
    except LookupError:
        return _CQE, _BIG_CQE
    return _NEW_CQE, _NEW_BIG_CQE


def _old_cqes(prog: Program, it: Ring, count: int) -> Iterator[bytes]:
    big = bool(it.ctx.flags & _IORING_SETUP_CQE32)
    for i in range(count):
        entry = (it.rings.cq_head + i) & it.ctx.cq_entries - 1
        user_data, res, flags, *extra = _cqe(prog, it, entry << big)
        yield _CQE % (entry, user_data, res, flags)
        yield _BIG_CQE % tuple(extra) if big else b"\n"


def _new_cqes(prog: Program, it: Ring, count: int) -> Iterator[bytes]:
    text, big_text = _cqe_text(prog)
    entry = it.rings.cq_head
    end = entry + count
    while entry < end:
        slot = entry & it.ctx.cq_entries - 1
        user_data, res, flags, *extra = _cqe(prog, it, slot)
        big = flags & _IORING_CQE_F_32 or it.ctx.flags & _IORING_SETUP_CQE32
        yield text % (slot, user_data, res, flags)
        yield big_text % tuple(extra) if big else b"\n"
        entry += 2 if big else 1


def _registered(prog: Program, it: Ring, new: bool, lost: list[FaultError]) -> Iterator[bytes]:
    thread = SqThread() if it.locked else it.thread
    yield b"SqThread:\t%d\n" % thread.pid
    yield b"SqThreadCpu:\t%d\n" % thread.cpu
    if prog.type("struct io_sq_data").has_member("work_time"):
        yield b"SqTotalTime:\t%d\n" % thread.total_us
        yield b"SqWorkTime:\t%d\n" % thread.work_us
    yield b"UserFiles:\t%d\n" % len(it.file_names)
    for i, name in _numbered(() if it.locked else it.file_names, lost):
        if name is not None:
            yield b"%5d: %b\n" % (i, name)
        elif not new:
            yield b"%5d: <none>\n" % i
    yield b"UserBufs:\t%d\n" % len(it.bufs)
    for i, buf in _numbered(() if it.locked else it.bufs, lost):
        yield b"%5d: 0x%x/%d\n" % (i, *buf) if buf is not None else b"%5d: <none>\n" % i
    if not new and not it.locked:
        yield from _personalities(prog, it.ctx)


def _numbered(
    slots: Sequence[T | Lost | None], lost: list[FaultError]
) -> Iterator[tuple[int, T | None]]:
    numbered = enumerate(slots)
    return sift((s if isinstance(s, Lost) else (i, s) for i, s in numbered), lost.append)


def _buf_text(buf: tuple[int, int] | Lost) -> str:
    return plain(buf) if isinstance(buf, Lost) else f"{buf[0]:#x}/{buf[1]}"


def _personalities(prog: Program, ctx: IoRingCtx) -> Iterator[bytes]:
    """``io_uring_show_cred()`` of each personality; kernels up to v6.12 show these."""
    # This import loads all of drgn's helpers for Linux.
    from drgn.helpers.linux.xarray import xa_for_each

    xarray = Object(prog, "struct io_ring_ctx *", ctx.address).personalities.address_of_()
    first = True
    for index, entry in islice(xa_for_each(xarray), _MAX_REGISTERED):
        if first:
            yield b"Personalities:\n"
            first = False
        cred = Object(prog, "struct cred *", entry.value_())
        uids = [cred.member_(name).val.value_() for name in ("uid", "euid", "suid", "fsuid")]
        gids = [cred.member_(name).val.value_() for name in ("gid", "egid", "sgid", "fsgid")]
        info = cred.group_info
        count = min(info.ngroups.value_(), 1 << 16)
        groups = [info.gid[i].val.value_() for i in range(count)]
        effective = cred.cap_effective
        # Linux kernel commit f122a08b197d ("capability: just use a 'u64' instead of a 'u32[2]'
        # array") (in v6.3).
        if effective.type_.has_member("val"):
            caps = effective.val.value_()
        else:
            caps = effective.cap[1].value_() << 32 | effective.cap[0].value_()
        yield b"%5d\n" % index
        yield b"\tUid:\t%d\t\t%d\t\t%d\t\t%d\n" % tuple(uids)
        yield b"\tGid:\t%d\t\t%d\t\t%d\t\t%d\n" % tuple(gids)
        yield b"\tGroups:\t%b\n" % b" ".join(b"%d" % gid for gid in groups)
        yield b"\tCapEff:\t%016x\n" % caps


def _napi(ctx: IoRingCtx) -> Iterator[bytes]:
    # enum io_uring_napi_tracking_strategy
    dynamic, static, inactive = 0, 1, 255
    if ctx.napi_track_mode is None:
        if ctx.napi_enabled is None:
            return
        mode, text = dynamic if ctx.napi_enabled else inactive, b""
    else:
        mode = ctx.napi_track_mode
        text = {dynamic: b"napi tracking:\tdynamic\n", static: b"napi tracking:\tstatic\n"}.get(
            mode, b""
        )
    if mode == inactive:
        yield b"NAPI:\tdisabled\n"
    elif mode not in (dynamic, static):
        yield b"NAPI:\tunknown mode (%d)\n" % mode
    else:
        yield b"NAPI:\tenabled\n" + text
        yield b"napi_busy_poll_dt:\t%d\n" % (ctx.napi_dt or 0)
        yield b"napi_prefer_busy_poll:\t%b\n" % (b"true" if ctx.napi_prefer else b"false")
