# SPDX-License-Identifier: LGPL-2.1-or-later
"""BPF iterators, open to be read: kernel/bpf/bpf_iter.c."""

from __future__ import annotations

from typing import NamedTuple

from drgn import Object, container_of

from drgn_sockets.kernel.memory import read_string
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.records.kinds.bpf_prog import prog_id
from drgn_sockets.text import escape


class BpfIterRecord(NamedTuple):
    """An open BPF iterator."""

    target: str
    prog_id: int
    #: How many objects it has shown.
    seq_num: int


class BpfIter(Kind):
    """A BPF iterator."""

    name = "bpf_iter"
    fops = ("bpf_iter_fops",)
    fields = (
        Field("target", "what a BPF iterator walks over", lambda it: it.target),
        Field("prog_id", "ID of its BPF program", lambda it: it.prog_id),
        Field("seq_num", "objects that it has shown", lambda it: it.seq_num, False),
    )

    def read(self, file: FileRecord) -> BpfIterRecord:
        prog = file.prog
        seq = Object(prog, "struct seq_file *", file.private_data)
        target = Object(prog, "u8 *", seq.member_("private").value_())
        iterator = container_of(target, "struct bpf_iter_priv_data", "target_private")
        name = read_string(prog, iterator.tinfo.reg_info.target.value_(), 64)
        return BpfIterRecord(
            escape(name or b"?"),
            prog_id(prog, iterator.prog.value_()),
            iterator.seq_num.value_(),
        )
