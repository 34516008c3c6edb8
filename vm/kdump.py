# SPDX-License-Identifier: LGPL-2.1-or-later
"""
QEMU's kdump files, made into what makedumpfile would have written.

QEMU writes the *flattened* format: a series of (offset, size, data), each of which belongs at
its offset. libkdumpfile reads that only with a warning, and after it has indexed the whole file.

Of ``struct new_utsname`` in the header, QEMU fills in the machine only. libkdumpfile ignores the
structure unless sysname, release and version are there, and drgn then does not know the
architecture.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from vm.errors import VmError

# makedumpfile.h: struct makedumpfile_header, padded to 4096 bytes; big-endian.
FLAT_HEADER = struct.Struct(">16sqq")
FLAT_HEADER_SIZE = 4096
FLAT_SIGNATURE = b"makedumpfile\0\0\0\0"
# struct makedumpfile_data_header; an offset of -1 ends the file.
FLAT_DATA = struct.Struct(">qq")

# diskdump_mod.h: struct disk_dump_header is char signature[8], int header_version, and
# then struct new_utsname: sysname, nodename, release, version, machine, domainname.
SIGNATURE = b"KDUMP   "
UTSNAME_AT = len(SIGNATURE) + 4
UTSNAME_FIELD = 65

CHUNK = 1 << 20


def unflatten(source: BinaryIO, to: BinaryIO) -> None:
    """
    Put the pieces of a flattened dump in their places, as ``makedumpfile -R`` does.

    :param source: read once from its current position; need not be seekable
    :param to: seekable, and empty
    :raises VmError: if *source* is not flattened, or has no end
    """
    header = source.read(FLAT_HEADER_SIZE)
    if len(header) < FLAT_HEADER_SIZE or not header.startswith(FLAT_SIGNATURE):
        raise VmError("not a flattened dump")
    _, kind, version = FLAT_HEADER.unpack_from(header)
    if (kind, version) != (1, 1):
        raise VmError(f"a flattened dump of unknown type {kind}, version {version}")
    while True:
        record = source.read(FLAT_DATA.size)
        if len(record) < FLAT_DATA.size:
            raise VmError("the flattened dump is cut short")
        offset, size = FLAT_DATA.unpack(record)
        if offset == -1:
            break
        if offset < 0 or size < 0:
            raise VmError(f"the flattened dump is damaged: {size} bytes at {offset}")
        to.seek(offset)
        while size:
            data = source.read(min(size, CHUNK))
            if not data:
                raise VmError("the flattened dump is cut short")
            to.write(data)
            size -= len(data)


def fill_utsname(dump: BinaryIO, uname: Sequence[str]) -> None:
    """
    Fill in a kdump header's ``struct new_utsname``, unless its sysname is there.

    :param dump: readable, writable, seekable
    :param uname: as of :func:`os.uname` in the guest
    :raises VmError: if it is not a (reassembled) kdump file
    """
    dump.seek(0)
    size = 6 * UTSNAME_FIELD
    head = dump.read(UTSNAME_AT + size)
    if not head.startswith(SIGNATURE) or len(head) < UTSNAME_AT + size:
        raise VmError("not a kdump file")
    if head[UTSNAME_AT] == 0:
        fields = [name.encode()[: UTSNAME_FIELD - 1] for name in uname]
        dump.seek(UTSNAME_AT)
        dump.write(b"".join(f.ljust(UTSNAME_FIELD, b"\0") for f in fields))


def reassemble(flattened: Path, to: Path, uname: Sequence[str]) -> None:
    """Make a kdump file with a complete ``struct new_utsname`` of a flattened one of QEMU's."""
    with flattened.open("rb", buffering=CHUNK) as source, to.open("w+b") as out:
        unflatten(source, out)
        fill_utsname(out, uname)
