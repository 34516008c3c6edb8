# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that the kernel does not map: mm/secretmem.c."""

from __future__ import annotations

from operator import attrgetter

from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.records.kinds.memfd import InodeSize


class Secretmem(Kind):
    """A file of memfd_secret(2)."""

    name = "secretmem"
    fops = ("secretmem_fops",)
    fields = (Field("size", "size of a secret memory area, bytes", attrgetter("size")),)

    def read(self, file: FileRecord) -> InodeSize:
        return InodeSize.layout(file.prog).read(file.file.inode)
