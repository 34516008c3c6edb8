# SPDX-License-Identifier: LGPL-2.1-or-later
"""
QEMU's kdump files, made into what makedumpfile would have written.

QEMU writes the *flattened* format, in which a file is a series of (offset, size, data)
to be put in their places, and which libkdumpfile reads only with a warning and after
indexing all of it. It also leaves ``struct new_utsname`` in the header empty, so that
drgn does not know the machine. Both are a matter of a few bytes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from vm.errors import VmError

# makedumpfile.h: struct makedumpfile_header, padded to 4096 bytes; big-endian.
FLAT_HEADER = struct.Struct(">16sqq")
FLAT_HEADER_SIZE = 4096
FLAT_SIGNATURE = b"makedumpfile\0\0\0\0"
# struct makedumpfile_data_header; an offset of -1 ends the file.
FLAT_DATA = struct.Struct(">qq")

# diskdump_mod.h: struct disk_dump_header is char signature[8], int header_version,
# then struct new_utsname, six times char[65], of which machine is the fifth.
SIGNATURE = b"KDUMP   "
UTSNAME_AT = len(SIGNATURE) + 4
UTSNAME_FIELD = 65
MACHINE_AT = UTSNAME_AT + 4 * UTSNAME_FIELD

CHUNK = 1 << 20


def unflatten(source: BinaryIO, to: BinaryIO) -> None:
    """
    Put the pieces of a flattened dump in their places, as ``makedumpfile -R`` does.

    :param source: read once, from where it is on; need not be seekable
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
    # The last of a dump can be a hole.
    to.flush()


def name_machine(dump: BinaryIO, machine: bytes = b"x86_64") -> None:
    """
    Fill in the machine's name in a kdump header, unless it is there.

    :param dump: readable, writable, seekable
    :raises VmError: if it is not a (reassembled) kdump file
    """
    dump.seek(0)
    head = dump.read(MACHINE_AT + UTSNAME_FIELD)
    if not head.startswith(SIGNATURE) or len(head) < MACHINE_AT + UTSNAME_FIELD:
        raise VmError("not a kdump file")
    if head[MACHINE_AT] == 0:
        dump.seek(MACHINE_AT)
        dump.write(machine)


def reassemble(flattened: Path, to: Path) -> None:
    """Make a kdump file, with the machine named, of a flattened one of QEMU's."""
    with flattened.open("rb", buffering=CHUNK) as source, to.open("w+b") as out:
        unflatten(source, out)
        name_machine(out)
