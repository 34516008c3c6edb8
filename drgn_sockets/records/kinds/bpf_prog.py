# SPDX-License-Identifier: LGPL-2.1-or-later
"""BPF programs: kernel/bpf/syscall.c."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn import Program

from drgn_sockets.kernel.enums import enum_names
from drgn_sockets.kernel.memory import page_shift
from drgn_sockets.kernel.percpu import per_cpu_sums
from drgn_sockets.kernel.structs import Bytes, Int, OptInt, Struct, c_string, find_place
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.text import escape


class BpfProgAux(Struct):
    """``struct bpf_prog_aux``."""

    C_TYPE = "struct bpf_prog_aux"

    id = Int("id", help="ID of the program")
    name = Bytes("name", help="what it was given as its name")
    # Linux kernel commit aba64c7da983 ("bpf: Add verified_insns to bpf_prog_info and fdinfo")
    # (in v5.16) added the member and its line.
    verified_insns = OptInt("verified_insns", help="instructions that the verifier went through")
    stats = OptInt("stats", help="struct bpf_prog_stats __percpu *")


class BpfProg(Struct):
    """``struct bpf_prog``."""

    C_TYPE = "struct bpf_prog"

    type = Int("type", help="BPF_PROG_TYPE_*")
    jited = Int("jited", help="whether it was compiled to machine code")
    tag = Bytes("tag", help="begins the hash of its instructions")
    pages = Int("pages", help="pages that it takes")
    len = Int("len", help="instructions")
    aux = Int("aux", help="struct bpf_prog_aux *")
    # Linux kernel commit 700d4796ef59 ("bpf: Optimize program stats") (in v5.12) moved stats here
    # from struct bpf_prog_aux.
    stats = OptInt("stats", help="struct bpf_prog_stats __percpu *")


class Program_(NamedTuple):
    """A BPF program with its statistics."""

    prog: BpfProg
    aux: BpfProgAux
    type: str
    nsecs: int
    runs: int
    #: ``None`` where the kernel does not count misses.
    misses: int | None
    memlock: int


def object_name(name: bytes) -> str | None:
    """The name of a BPF object from its array of characters, ``None`` if the name is empty."""
    return escape(c_string(name)) or None


def prog_type(prog: Program, value: int) -> str:
    """The type of a program as lsfd writes it, such as ``socket_filter``."""
    return enum_names(prog, "bpf_prog_type", "BPF_PROG_TYPE_").get(value, f"UNKNOWN({value})")


def prog_id(prog: Program, address: int) -> int:
    """
    The ID of a program.

    :param address: ``struct bpf_prog *``
    :raises FaultError: if it cannot be read
    """
    return BpfProgAux.layout(prog).read(BpfProg.layout(prog).read(address).aux).id


def _stat(prog: Program, stats: int, name: str) -> int | None:
    """A counter of ``struct bpf_prog_stats``, summed over CPUs as in ``bpf_prog_get_stats()``."""
    # Linux kernel commit 9ed9e9ba2337 ("bpf: Count the number of times recursion was
    # prevented") (in v5.12) added misses.
    place = find_place(prog, prog.type("struct bpf_prog_stats"), name)
    if place is None:
        return None
    return per_cpu_sums(prog, stats + place.offset, "Q")[0] & (1 << 64) - 1


class BpfProgram(Kind):
    """A BPF program."""

    name = "bpf_prog"
    fops = ("bpf_prog_fops",)
    fields = (
        Field("id", "ID of a BPF program", lambda it: it.aux.id),
        Field("type", "type of a BPF program", lambda it: it.type),
        Field("type.raw", "the same as a number", lambda it: it.prog.type, False),
        Field("tag", "tag of a BPF program: begins a hash", lambda it: it.prog.tag.hex()),
        Field("name", "name of a BPF program", lambda it: object_name(it.aux.name)),
        Field("jited", "whether it is machine code", lambda it: bool(it.prog.jited), False),
        Field("insns", "instructions of a BPF program", lambda it: it.prog.len, False),
        Field("memlock", "memory of a BPF program, bytes", lambda it: it.memlock, False),
        Field(
            "run_time_ns", "time it ran, ns (kernel.bpf_stats_enabled)", lambda i: i.nsecs, False
        ),
        Field("run_cnt", "times it ran (kernel.bpf_stats_enabled)", lambda it: it.runs, False),
        Field(
            "recursion_misses", "times it did not run, to not recurse", lambda i: i.misses, False
        ),
    )

    def read(self, file: FileRecord) -> Program_:
        prog = file.prog
        bpf = BpfProg.layout(prog).read(file.private_data)
        aux = BpfProgAux.layout(prog).read(bpf.aux)
        stats = aux.stats if bpf.stats is None else bpf.stats
        if not stats:
            raise LookupError("this kernel counts the runs of programs in another way")
        return Program_(
            bpf,
            aux,
            prog_type(prog, bpf.type),
            _stat(prog, stats, "nsecs") or 0,
            _stat(prog, stats, "cnt") or 0,
            _stat(prog, stats, "misses"),
            bpf.pages << page_shift(prog),
        )

    def fdinfo(self, file: FileRecord, it: Program_) -> Iterator[bytes]:
        """``bpf_prog_show_fdinfo()``"""
        yield b"prog_type:\t%d\n" % it.prog.type
        yield b"prog_jited:\t%d\n" % it.prog.jited
        yield b"prog_tag:\t%b\n" % it.prog.tag.hex().encode()
        yield b"memlock:\t%d\n" % it.memlock
        yield b"prog_id:\t%d\n" % it.aux.id
        yield b"run_time_ns:\t%d\n" % it.nsecs
        yield b"run_cnt:\t%d\n" % it.runs
        if it.misses is not None:
            yield b"recursion_misses:\t%d\n" % it.misses
        if it.aux.verified_insns is not None:
            yield b"verified_insns:\t%d\n" % it.aux.verified_insns
