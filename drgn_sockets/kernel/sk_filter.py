# SPDX-License-Identifier: LGPL-2.1-or-later
"""Filters of sockets: ``SO_ATTACH_FILTER``."""

from __future__ import annotations

import struct
from typing import NamedTuple

from drgn import Program

from drgn_sockets.kernel.memory import read_bytes
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.program import byte_order

_INSTRUCTION = "HBBI"
_INSTRUCTION_SIZE = 8
# include/uapi/linux/bpf_common.h
_BPF_MAXINSNS = 4096


class Instruction(NamedTuple):
    """``struct sock_filter``: an instruction of classic BPF."""

    code: int
    jt: int
    jf: int
    k: int


class _SkFilter(Struct):
    C_TYPE = "struct sk_filter"

    prog = Int("prog")


class _BpfProg(Struct):
    C_TYPE = "struct bpf_prog"

    orig_prog = Int("orig_prog")


class _SockFprog(Struct):
    C_TYPE = "struct sock_fprog_kern"

    len = Int("len")
    filter = Int("filter")


def filter_bytes(prog: Program, sk_filter: int) -> bytes | None:
    """
    The classic BPF program of a filter as it was attached, as ``sock_diag_put_filterinfo()``
    gives it.

    :param sk_filter: ``struct sk_filter *``
    :return: ``struct sock_filter[]``; ``None`` if there is no filter, or if it was attached as eBPF
    :raises FaultError: if it cannot be read
    """
    if not sk_filter:
        return None
    program = _BpfProg.layout(prog).read(_SkFilter.layout(prog).read(sk_filter).prog)
    if not program.orig_prog:
        return None
    original = _SockFprog.layout(prog).read(program.orig_prog)
    size = min(original.len, _BPF_MAXINSNS) * _INSTRUCTION_SIZE
    return read_bytes(prog, original.filter, size, "struct sock_filter[]")


def instructions(prog: Program, raw: bytes) -> list[Instruction]:
    """Decode the bytes that :func:`filter_bytes` returns."""
    form = struct.Struct(byte_order(prog) + _INSTRUCTION)
    return [Instruction(*fields) for fields in form.iter_unpack(raw)]
