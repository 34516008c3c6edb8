# SPDX-License-Identifier: LGPL-2.1-or-later
"""bpf(2) without a library: maps, programs, BTF, links and iterators."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence
from pathlib import Path

from . import syscalls

# enum bpf_cmd
MAP_CREATE, MAP_UPDATE, PROG_LOAD, RAW_TRACEPOINT_OPEN, BTF_LOAD, MAP_FREEZE = 0, 2, 5, 17, 18, 22
LINK_CREATE, ITER_CREATE, TOKEN_CREATE = 28, 33, 36
# enum bpf_map_type
HASH, ARRAY, PROG_ARRAY, PERCPU_HASH, PERCPU_ARRAY, STACK_TRACE = 1, 2, 3, 5, 6, 7
LRU_HASH, LRU_PERCPU_HASH, LPM_TRIE, DEVMAP, SOCKMAP, CPUMAP = 9, 10, 11, 14, 15, 16
QUEUE, STACK, RINGBUF, BLOOM_FILTER = 22, 23, 27, 30
NO_PREALLOC, MMAPABLE = 1, 1 << 10
# enum bpf_prog_type
SOCKET_FILTER, KPROBE, TRACEPOINT, XDP, PERF_EVENT, CGROUP_SKB = 1, 2, 5, 6, 7, 8
RAW_TRACEPOINT, TRACING, SK_LOOKUP = 17, 26, 30
# enum bpf_attach_type
CGROUP_INET_EGRESS, TRACE_FENTRY, TRACE_ITER, AT_SK_LOOKUP, AT_XDP, AT_PERF_EVENT = (
    *(1, 24, 28),
    *(36, 37, 41),
)
TRACE_KPROBE_MULTI, TRACE_UPROBE_MULTI = 42, 48
_BTF_MAGIC = 0xEB9F
_KIND_INT, _KIND_FUNC = 1, 12
# For each BTF kind, the size of what follows struct btf_type: fixed, and for each member.
_TAILS = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0),
          15: (0, 12), 17: (4, 0), 19: (0, 12)}  # fmt: skip

#: mov r0, 1; exit
RETURN_1 = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)
#: The same with 0, and with 2 (``XDP_PASS``).
RETURN_0 = struct.pack("<BBhi", 0xB7, 0, 0, 0) + RETURN_1[8:]
RETURN_2 = struct.pack("<BBhi", 0xB7, 0, 0, 2) + RETURN_1[8:]


def command(number: int, attributes: bytes) -> int:
    """Call bpf(2)."""
    buffer = ctypes.create_string_buffer(attributes, 128)
    return syscalls.syscall("bpf", number, buffer, 128)


def _pointer(data: bytes, keep: list[object]) -> int:
    buffer = ctypes.create_string_buffer(data, max(len(data), 1))
    keep.append(buffer)
    return ctypes.addressof(buffer)


def make_map(
    kind: int, key: int, value: int, entries: int, flags: int = 0, name: bytes = b""
) -> int:
    """Make a map."""
    return command(
        MAP_CREATE, struct.pack("=5III16s", kind, key, value, entries, flags, 0, 0, name)
    )


def update(fd: int, key: bytes, value: bytes) -> None:
    """Set an element of a map."""
    keep: list[object] = []
    command(MAP_UPDATE, struct.pack("=IxxxxQQQ", fd, _pointer(key, keep), _pointer(value, keep), 0))


def load(
    kind: int, code: bytes = RETURN_0, name: bytes = b"", attach_type: int = 0, btf_id: int = 0
) -> int:
    """Load a program."""
    keep: list[object] = []
    attributes = struct.pack(
        "=IIQQIIQII16sIIIIQIIQII",
        *(kind, len(code) // 8, _pointer(code, keep), _pointer(b"GPL", keep), 0, 0, 0, 0, 0),
        *(name, 0, attach_type, 0, 0, 0, 0, 0, 0, 0, btf_id),
    )
    return command(PROG_LOAD, attributes)


def link(prog: int, target: int, attach_type: int, flags: int = 0, info: bytes = b"") -> int:
    """Attach a program by a link. *info* is a ``union bpf_iter_link_info`` for iterators."""
    keep: list[object] = []
    attributes = struct.pack("=IIII", prog, target, attach_type, flags)
    if info:
        attributes += struct.pack("=QI", _pointer(info, keep), len(info))
    return command(LINK_CREATE, attributes)


def kprobes(prog: int, names: Sequence[bytes]) -> int:
    """Attach a program to functions of the kernel."""
    keep: list[object] = []
    pointers = struct.pack(f"={len(names)}Q", *(_pointer(name, keep) for name in names))
    cookies = struct.pack(f"={len(names)}Q", *range(1, len(names) + 1))
    attributes = struct.pack(
        "=IIIIIIQQQ",
        *(prog, 0, TRACE_KPROBE_MULTI, 0, 0, len(names)),
        *(_pointer(pointers, keep), 0, _pointer(cookies, keep)),
    )
    return command(LINK_CREATE, attributes)


def uprobes(prog: int, path: bytes, offsets: Sequence[int], pid: int = 0) -> int:
    """Attach a program to places in a file."""
    keep: list[object] = []
    places = struct.pack(f"={len(offsets)}Q", *offsets)
    attributes = struct.pack(
        "=IIIIQQQQIII",
        *(prog, 0, TRACE_UPROBE_MULTI, 0, _pointer(path, keep), _pointer(places, keep), 0, 0),
        *(len(offsets), 0, pid),
    )
    return command(LINK_CREATE, attributes)


def raw_tracepoint(prog: int, name: bytes | None) -> int:
    """Attach a program to a raw tracepoint; without a name, to the one it was loaded for."""
    keep: list[object] = []
    address = 0 if name is None else _pointer(name, keep)
    return command(RAW_TRACEPOINT_OPEN, struct.pack("=QI", address, prog))


def load_btf() -> int:
    """Load BTF with one type, ``int``."""
    types = struct.pack("=III", 1, _KIND_INT << 24, 4) + struct.pack("=I", 1 << 24 | 32)
    strings = b"\0int\0"
    header = struct.pack("=HBBIIIII", _BTF_MAGIC, 1, 0, 24, 0, len(types), len(types), len(strings))
    data = header + types + strings
    keep: list[object] = []
    return command(BTF_LOAD, struct.pack("=QQIIII", _pointer(data, keep), 0, len(data), 0, 0, 0))


@functools.lru_cache(1)
def _functions() -> tuple[bytes, dict[int, int]]:
    """Get the strings of the kernel's BTF, and its functions by offset of their names there."""
    data = Path("/sys/kernel/btf/vmlinux").read_bytes()
    _, _, _, length, type_off, type_len, str_off, str_len = struct.unpack_from("=HBBIIIII", data)
    at, end, number = length + type_off, length + type_off + type_len, 1
    found = {}
    entry = struct.Struct("=II")
    while at < end:
        name_off, info = entry.unpack_from(data, at)
        kind = info >> 24 & 0x1F
        if kind == _KIND_FUNC:
            found[name_off] = number
        fixed, each = _TAILS.get(kind, (0, 0))
        at += 12 + fixed + each * (info & 0xFFFF)
        number += 1
    return data[length + str_off : length + str_off + str_len], found


def function_id(name: bytes) -> int:
    """
    ID of a function in the kernel's BTF.

    :raises OSError: if there is none of that name
    """
    strings, functions = _functions()
    number = functions.get(strings.find(b"\0" + name + b"\0") + 1)
    if number is None:
        raise OSError(2, f"no function {name.decode()} in the kernel's BTF")
    return number


def token(root: int) -> int:
    """Get a token of the root directory of a BPF file system."""
    return command(TOKEN_CREATE, struct.pack("=Ii", 0, root))
