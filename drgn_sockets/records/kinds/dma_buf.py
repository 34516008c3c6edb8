# SPDX-License-Identifier: LGPL-2.1-or-later
"""Buffers that devices share: drivers/dma-buf/dma-buf.c."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn_sockets.kernel.memory import read_string
from drgn_sockets.kernel.structs import Int, OptInt, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.text import escape

_NAME_MAX = 256


class DmaBuf(Struct):
    """``struct dma_buf``."""

    C_TYPE = "struct dma_buf"

    size = Int("size", help="bytes")
    file = Int("file", help="struct file *")
    exp_name = Int("exp_name", help="const char *, name of the exporter")
    name = Int("name", help="const char *, name that user space gave it")


class _FileCount(Struct):
    C_TYPE = "struct file"

    # Linux kernel commit 90ee6ed776c0 ("fs: port files to file_ref") (in v6.13). f_ref is 0 for
    # one reference.
    ref = OptInt("f_ref.refcnt.counter")
    count = OptInt("f_count.counter")


class DmaBufRecord(NamedTuple):
    """A DMA buffer."""

    buf: DmaBuf
    #: References to its file.
    refs: int
    exp_name: bytes
    #: ``None`` if it has none.
    name: bytes | None


class DmaBufKind(Kind):
    """A DMA buffer."""

    name = "dma_buf"
    fops = ("dma_buf_fops",)
    fields = (
        Field("size", "size of a DMA buffer, bytes", lambda it: it.buf.size),
        Field("count", "references to the file of a DMA buffer", lambda it: it.refs),
        Field("exp_name", "exporter of a DMA buffer", lambda it: escape(it.exp_name)),
        Field("name", "name of a DMA buffer", lambda it: it.name and escape(it.name)),
    )

    def read(self, file: FileRecord) -> DmaBufRecord:
        prog = file.prog
        buf = DmaBuf.layout(prog).read(file.private_data)
        counts = _FileCount.layout(prog).read(buf.file)
        count = counts.count if counts.ref is None else counts.ref + 1
        name = read_string(prog, buf.name, _NAME_MAX) if buf.name else None
        exp_name = read_string(prog, buf.exp_name, _NAME_MAX) or b""
        return DmaBufRecord(buf, count or 0, exp_name, name)

    def fdinfo(self, file: FileRecord, it: DmaBufRecord) -> Iterator[bytes]:
        """``dma_buf_show_fdinfo()``, which leaves out the reference that it holds itself."""
        yield b"size:\t%d\n" % it.buf.size
        yield b"count:\t%d\n" % it.refs
        yield b"exp_name:\t%b\n" % it.exp_name
        if it.name is not None:
            yield b"name:\t%b\n" % it.name
