# SPDX-License-Identifier: LGPL-2.1-or-later
"""BPF tokens: kernel/bpf/token.c, from Linux 6.9 on."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind


class Token(Struct):
    """``struct bpf_token``."""

    C_TYPE = "struct bpf_token"

    cmds = Int("allowed_cmds", help="commands of bpf(2) allowed by it")
    maps = Int("allowed_maps", help="types of maps allowed by it")
    progs = Int("allowed_progs", help="types of programs allowed by it")
    attachs = Int("allowed_attachs", help="types of attachment allowed by it")


class _TokenRecord(NamedTuple):
    cmds: str
    maps: str
    progs: str
    attachs: str


# The enumerator that gives the number of bits of each mask.
_COUNTS = {
    "cmds": "__MAX_BPF_CMD",
    "maps": "__MAX_BPF_MAP_TYPE",
    "progs": "__MAX_BPF_PROG_TYPE",
    "attachs": "__MAX_BPF_ATTACH_TYPE",
}


class BpfToken(Kind):
    """A BPF token."""

    name = "bpf_token"
    fops = ("bpf_token_fops",)
    fields = tuple(
        Field(f"allowed_{name}", f"which {name} a BPF token allows", attrgetter(name))
        for name in _COUNTS
    )

    def read(self, file: FileRecord) -> _TokenRecord:
        prog = file.prog
        token = Token.layout(prog).read(file.private_data)
        texts = {}
        for name, count in _COUNTS.items():
            mask = (1 << prog.constant(count).value_()) - 1
            allowed = getattr(token, name)
            texts[name] = "any" if allowed & mask == mask else f"{allowed:#x}"
        return _TokenRecord(**texts)

    def fdinfo(self, file: FileRecord, it: _TokenRecord) -> Iterator[bytes]:
        """``bpf_token_show_fdinfo()``"""
        for name, text in it._asdict().items():
            yield f"allowed_{name}:\t{text}\n".encode()
