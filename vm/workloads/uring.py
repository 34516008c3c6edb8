# SPDX-License-Identifier: LGPL-2.1-or-later
"""io_uring(7) without a library."""

from __future__ import annotations

import ctypes
import struct

from . import syscalls

SETUP_SQE128, SETUP_CQE32 = 1 << 10, 1 << 11
OP_NOP, OP_READV, OP_POLL_ADD = 0, 1, 6
REGISTER_BUFFERS, REGISTER_FILES, REGISTER_PERSONALITY = 0, 2, 9
_OFF_SQ_RING, _OFF_SQES = 0, 0x10000000
_PROT_READ_WRITE, _MAP_SHARED = 3, 1
POLLIN = 1

_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.restype = ctypes.c_void_p


def _map(fd: int, size: int, offset: int) -> int:
    # Not mmap.mmap(), which keeps a descriptor of its own.
    address = _mmap(
        *(None, ctypes.c_size_t(size), _PROT_READ_WRITE, _MAP_SHARED, fd),
        ctypes.c_long(offset),
    )
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap of an io_uring")
    return int(address)


class Ring:
    """An io_uring, whose queues are mapped."""

    def __init__(self, entries: int, flags: int = 0) -> None:
        parameters = ctypes.create_string_buffer(120)
        struct.pack_into("=III", parameters, 0, 0, 0, flags)
        self.fd = syscalls.syscall("io_uring_setup", entries, parameters)
        self.sq_entries, self.cq_entries = struct.unpack_from("=II", parameters)
        # struct io_sqring_offsets: head, tail, ring_mask, ring_entries, flags, dropped, array
        offsets = struct.unpack_from("=7I", parameters, 40)
        self._tail, self._array = offsets[1], offsets[6]
        self._size = 128 if flags & SETUP_SQE128 else 64
        # Large enough for both queues, which share a mapping (IORING_FEAT_SINGLE_MMAP).
        cqe_size = 32 if flags & SETUP_CQE32 else 16
        (cqes,) = struct.unpack_from("=I", parameters, 80 + 20)
        whole = max(self._array + 4 * self.sq_entries, cqes + cqe_size * self.cq_entries)
        self._ring = _map(self.fd, whole, _OFF_SQ_RING)
        self._sqes = _map(self.fd, self._size * self.sq_entries, _OFF_SQES)

    def queue(self, opcode: int, fd: int = -1, user_data: int = 0, what: int = 0) -> None:
        """Put a submission into the queue, without telling the kernel."""
        tail = ctypes.c_uint32.from_address(self._ring + self._tail)
        index = tail.value % self.sq_entries
        sqe = struct.pack("=BBHiQQIIQ24x", opcode, 0, 0, fd, 0, 0, 0, what, user_data)
        ctypes.memmove(self._sqes + index * self._size, sqe.ljust(self._size, b"\0"), self._size)
        ctypes.c_uint32.from_address(self._ring + self._array + 4 * index).value = index
        tail.value += 1

    def submit(self, count: int) -> None:
        """Tell the kernel to take submissions."""
        done = syscalls.syscall("io_uring_enter", self.fd, count, 0, 0, None, 0)
        if done != count:
            raise OSError(22, f"io_uring took {done} of {count} submissions")

    def register(self, what: int, data: object, count: int) -> None:
        """Register files or buffers."""
        syscalls.syscall("io_uring_register", self.fd, what, data, count)
