# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF that was loaded: kernel/bpf/btf.c."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from drgn_sockets.kernel.structs import Int, OptBytes, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.records.kinds.bpf_prog import object_name


class Btf(Struct):
    """``struct btf``."""

    C_TYPE = "struct btf"

    id = Int("id", help="ID of it")
    data_size = Int("data_size", help="its size, bytes")
    # Linux kernel commit 5329722057d4 ("bpf: Assign ID to vmlinux BTF and return extra info for
    # BTF in GET_OBJ_INFO") (in v5.11).
    name = OptBytes("name", help="vmlinux, or of a module")


class BpfBtf(Kind):
    """BTF."""

    name = "btf"
    fops = ("btf_fops",)
    fields = (
        Field("id", "ID of BTF", attrgetter("id")),
        Field("size", "size of BTF, bytes", attrgetter("data_size")),
        Field("name", "vmlinux or module whose BTF it is", lambda it: object_name(it.name or b"")),
    )

    def read(self, file: FileRecord) -> Btf:
        return Btf.layout(file.prog).read(file.private_data)

    def fdinfo(self, file: FileRecord, it: Btf) -> Iterator[bytes]:
        """``bpf_btf_show_fdinfo()``"""
        yield b"btf_id:\t%d\n" % it.id
