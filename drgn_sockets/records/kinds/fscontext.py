# SPDX-License-Identifier: LGPL-2.1-or-later
"""File systems that are being set up, fsopen(2) and fspick(2): fs/fsopen.c."""

from __future__ import annotations

from typing import NamedTuple

from drgn_sockets.kernel.enums import enum_names
from drgn_sockets.kernel.memory import read_string
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.text import escape

_NAME_MAX = 4096


class FsContext(Struct):
    """``struct fs_context``."""

    C_TYPE = "struct fs_context"

    fs_type = Int("fs_type", help="struct file_system_type *")
    source = Int("source", help="const char *, what is to be mounted")
    purpose = Int("purpose", help="enum fs_context_purpose")
    phase = Int("phase", help="enum fs_context_phase")


class _FileSystem(Struct):
    C_TYPE = "struct file_system_type"

    name = Int("name")


class FsContextRecord(NamedTuple):
    """A file system that is being set up."""

    fs_type: str
    source: str | None
    purpose: str
    phase: str


class FsContextKind(Kind):
    """fsopen(2) and fspick(2)."""

    name = "fscontext"
    fops = ("fscontext_fops",)
    fields = (
        Field("type", "type of the file system that is set up", lambda it: it.fs_type),
        Field("source", "source of the file system that is set up", lambda it: it.source),
        Field("purpose", "for what it is set up: mount, reconfigure", lambda it: it.purpose),
        Field("phase", "how far it is", lambda it: it.phase),
    )

    def read(self, file: FileRecord) -> FsContextRecord:
        prog = file.prog
        context = FsContext.layout(prog).read(file.private_data)
        name = read_string(prog, _FileSystem.layout(prog).read(context.fs_type).name, 64)
        source = read_string(prog, context.source, _NAME_MAX)
        purposes = enum_names(prog, "fs_context_purpose", "FS_CONTEXT_FOR_")
        phases = enum_names(prog, "fs_context_phase", "FS_CONTEXT_")
        return FsContextRecord(
            escape(name or b"?"),
            None if source is None else escape(source),
            purposes.get(context.purpose, str(context.purpose)),
            phases.get(context.phase, str(context.phase)),
        )
