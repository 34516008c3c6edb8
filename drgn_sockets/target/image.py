# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a kernel's image tells without symbols of variables.

Without CONFIG_KALLSYMS_ALL, kallsyms has functions only. BTF is then found by its header, and the
variables that the kernel exports to modules are found by its table of exported symbols.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from typing import Callable

from drgn import FaultError, Program, offsetof, sizeof

from drgn_sockets.program import byte_order
from drgn_sockets.target.btf import Btf, BtfError

# The largest images have some 80 MB.
_MAX_IMAGE = 1 << 27
_CHUNK = 1 << 20
_PAGE = 4096
# So many bytes in which nothing can be read are the end of the image.
_MAX_HOLE = 1 << 24
# struct btf_header (include/uapi/linux/btf.h): magic, version, flags, hdr_len, and four more words.
_BTF_HEADER = "HBBI4I"
_BTF_START = {"<": b"\x9f\xeb\x01\x00", ">": b"\xeb\x9f\x01\x00"}
_MAX_BTF = 1 << 28
# struct kernel_symbol with CONFIG_HAVE_ARCH_PREL32_RELOCATIONS: offsets of value, name, namespace.
_ENTRY = 12
# __ksymtab is so near to its strings: 20,000 symbols of 12 bytes, and their checksums.
_NEAR = 1 << 20
_MAX_NAME = 512
_MAX_EXPORTS = 1 << 17
# Exported functions have to be where kallsyms has them: so many are looked at.
_SAMPLE = 64


_FOPS = "struct file_operations"
#: Variables by a member that points to a function. What other variables have that function too is
#: of the same kind: pipeanon_fops, ptmx_fops, refined_jiffies.
BY_FUNCTION = {
    "clocksource_jiffies": ("struct clocksource", "read", "jiffies_read"),
    "bpf_iter_fops": (_FOPS, "release", "iter_release"),
    "bpf_link_fops": (_FOPS, "release", "bpf_link_release"),
    "bpf_map_fops": (_FOPS, "release", "bpf_map_release"),
    "bpf_prog_fops": (_FOPS, "release", "bpf_prog_release"),
    "btf_fops": (_FOPS, "release", "btf_release"),
    "console_fops": (_FOPS, "write_iter", "redirected_tty_write"),
    "dma_buf_fops": (_FOPS, "release", "dma_buf_file_release"),
    "eventfd_fops": (_FOPS, "release", "eventfd_release"),
    "eventpoll_fops": (_FOPS, "release", "ep_eventpoll_release"),
    "fanotify_fops": (_FOPS, "release", "fanotify_release"),
    "fscontext_fops": (_FOPS, "release", "fscontext_release"),
    "inotify_fops": (_FOPS, "release", "inotify_release"),
    "io_uring_fops": (_FOPS, "release", "io_uring_release"),
    "mqueue_file_operations": (_FOPS, "flush", "mqueue_flush_file"),
    "perf_fops": (_FOPS, "release", "perf_release"),
    "pidfd_fops": (_FOPS, "release", "pidfd_release"),
    "pipefifo_fops": (_FOPS, "open", "fifo_open"),
    "raw_prot": ("struct proto", "close", "raw_close"),
    "rawv6_prot": ("struct proto", "close", "rawv6_close"),
    "signalfd_fops": (_FOPS, "release", "signalfd_release"),
    "socket_file_ops": (_FOPS, "release", "sock_close"),
    "timerfd_fops": (_FOPS, "release", "timerfd_release"),
    "tty_fops": (_FOPS, "write_iter", "tty_write"),
    "userfaultfd_fops": (_FOPS, "release", "userfaultfd_release"),
}


def _chunks(prog: Program, start: int) -> Iterator[tuple[int, bytes]]:
    """Memory from *start* on, as far as it can be read; what lies side by side in one piece."""
    hole = 0
    at = start
    while at < start + _MAX_IMAGE and hole < _MAX_HOLE:
        try:
            yield at, prog.read(at, _CHUNK)
            hole = 0
        except FaultError:
            # A page that is not there hides no others.
            for page in range(at, at + _CHUNK, _PAGE):
                try:
                    yield page, prog.read(page, _PAGE)
                    hole = 0
                except FaultError:
                    hole += _PAGE
        at += _CHUNK


def _find_all(prog: Program, start: int, needle: bytes) -> Iterator[int]:
    """Addresses of *needle* in the image that begins at *start*."""
    before, end = b"", 0
    for at, data in _chunks(prog, start):
        # What spans two pieces is found too.
        before = before if at == end else b""
        whole = before + data
        found = whole.find(needle)
        while found >= 0:
            yield at - len(before) + found
            found = whole.find(needle, found + 1)
        before, end = whole[-(len(needle) - 1) :], at + len(data)


def find_btf(prog: Program, start: int) -> tuple[int, int] | None:
    """
    Find the kernel's BTF by its header.

    :param start: Where the kernel's image begins (``_text``).
    :return: Where it begins and ends; ``None`` if there is none that is whole
    """
    order = byte_order(prog)
    header = struct.Struct(order + _BTF_HEADER)
    for at in _find_all(prog, start, _BTF_START[order]):
        if at % 4:
            continue
        try:
            head = prog.read(at, header.size)
            *_, size, type_off, type_len, str_off, str_len = header.unpack(head)
            if size < header.size or size > _PAGE or type_off or str_off != type_len or not str_len:
                continue
            if str_off + str_len > _MAX_BTF:
                continue
            data: bytes = prog.read(at, size + str_off + str_len)
            if b"\0task_struct\0" in data[size + str_off :]:
                Btf(data)
                return at, at + len(data)
        except (FaultError, BtfError):
            continue
    return None


def find_exports(
    prog: Program, start: int, address_of: Callable[[str], int | None]
) -> dict[str, int]:
    """
    Find the symbols that the kernel exports to modules (``__ksymtab`` and ``__ksymtab_gpl``).

    :param start: Where the kernel's image begins.
    :param address_of: The address of a function in kallsyms, to hold the table against.
    :return: Addresses by name; empty if the table is not found
    """
    for string in _find_all(prog, start, b"init_task\0"):
        found = _exports_near(prog, string)
        if found and _agrees(found, address_of):
            return found
    return {}


def _agrees(found: dict[str, int], address_of: Callable[[str], int | None]) -> bool:
    right = wrong = 0
    for name, address in found.items():
        known = address_of(name)
        if known is not None:
            right, wrong = right + (known == address), wrong + (known != address)
            if right + wrong == _SAMPLE:
                break
    return right > 9 * wrong and right + wrong >= _SAMPLE // 2


def _exports_near(prog: Program, string: int) -> dict[str, int]:
    """The table whose entry of ``init_task`` refers to *string*."""
    base = (string - _NEAR) & ~3
    try:
        data: bytes = prog.read(base, 3 * _NEAR)
    except FaultError:
        return {}
    words = array("i", data)
    if (byte_order(prog) == "<") != (sys.byteorder == "little"):
        words.byteswap()
    target = string - base
    for i in range(1, target // 4):
        if 4 * i + words[i] == target:
            found = _table(data, words, base, i - 1)
            if len(found) > _SAMPLE:
                return found
    return {}


def _table(data: bytes, words: array[int], base: int, first: int) -> dict[str, int]:
    """All entries of a table, one of which begins at the word *first*."""

    def entry(i: int) -> tuple[str, int] | None:
        if not 0 <= i < len(words) - 2:
            return None
        at = 4 * (i + 1) + words[i + 1]
        if not 0 <= at < len(data):
            return None
        end = data.find(b"\0", at, at + _MAX_NAME)
        name = data[at:end] if end > at else b""
        if not name.replace(b"_", b"a").replace(b".", b"a").isalnum():
            return None
        return name.decode("ascii", "replace"), base + 4 * i + words[i]

    found: dict[str, int] = {}
    for step in (-_ENTRY // 4, _ENTRY // 4):
        i = first
        while len(found) < _MAX_EXPORTS and (known := entry(i)) is not None:
            found[known[0]] = known[1]
            i += step
    return found


def find_by_function(
    prog: Program, start: int, address_of: Callable[[str], int | None]
) -> dict[str, list[int]]:
    """
    Find the variables of :data:`BY_FUNCTION` by what they contain.

    :param start: Where the kernel's image begins.
    :param address_of: The address of a function in kallsyms.
    :return: By name the addresses, in order, of the variables that fit.
    """
    word = struct.Struct(byte_order(prog) + "Q")
    wanted: dict[str, tuple[bytes, int]] = {}
    for name, (type_name, member, function) in BY_FUNCTION.items():
        address = address_of(function)
        try:
            offset = offsetof(prog.type(type_name), member)
        except LookupError:
            continue
        if address is not None:
            wanted[name] = word.pack(address), offset
    places: dict[str, list[int]] = {name: [] for name in wanted}
    for at, data in _chunks(prog, start):
        for name, (needle, offset) in wanted.items():
            found = data.find(needle)
            while found >= 0:
                if found % word.size == 0:
                    places[name].append(at + found - offset)
                found = data.find(needle, found + 1)
    for name, addresses in places.items():
        if BY_FUNCTION[name][0] == _FOPS:
            addresses[:] = [a for a in addresses if _has_functions(prog, a, start)]
    return {name: addresses for name, addresses in places.items() if addresses}


def _has_functions(prog: Program, address: int, start: int) -> bool:
    """Whether there are only functions, NULL and small numbers, as in file operations."""
    count = sizeof(prog.type(_FOPS)) // 8
    try:
        words = struct.unpack(f"{byte_order(prog)}{count}Q", prog.read(address, 8 * count))
    except FaultError:
        return False
    return all(word < _PAGE or start <= word < start + _MAX_IMAGE for word in words)
