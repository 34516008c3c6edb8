# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open files as lsof shows them."""

from __future__ import annotations

import stat
from typing import NamedTuple

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.records.fd import FdRecord, FileRecord
from drgn_sockets.records.kinds import known_of
from drgn_sockets.records.locks import lock_letter
from drgn_sockets.records.names import device_text
from drgn_sockets.records.socket import SocketRecord
from drgn_sockets.text import LOST

_DELETED = b" (deleted)"
_ANON = b"anon_inode:"

_TYPES = {"reg": "REG", "dir": "DIR", "chr": "CHR", "blk": "BLK", "lnk": "LINK"}
_TYPES.update({"fifo": "FIFO", "pipe": "FIFO", "memfd": "REG", "ns": "REG", "sockfile": "sock"})

# The field that lsof adds to the name of some kinds.
_TOLD = {"eventfd": "id", "pidfd": "pid", "eventpoll": "tfds"}
#: ``Pid`` of a pidfd whose process has ended.
_GONE = -1


class Words(NamedTuple):
    """The columns of lsof after FD."""

    type: str
    device: str | None
    size_off: str | None
    node: str | None
    #: Bytes: a path may be any.
    name: bytes | None


def words(r: FdRecord) -> Words:
    """Get the columns TYPE, DEVICE, SIZE/OFF, NODE and NAME."""
    file = r.file
    if file is None or file.inode is None:
        return Words("unknown", None, None, None, _bytes(r.error))
    if file.sk:
        return _socket(file)
    name = file.name or b""
    device = file.rdev if file.kind in ("chr", "blk") else file.dev
    return Words(
        _type(file, name),
        _device(device),
        _size(r, file),
        str(file.ino),
        _name(r, file, name) if file.error is None else _bytes(file.error),
    )


def _type(file: FileRecord, name: bytes) -> str:
    if name.startswith(_ANON):
        return "a_inode"
    if file.fs_type == b"mqueue" and file.kind == "reg":
        return "PSXMQ"
    if not stat.S_IFMT(file.i_mode):
        # Files of dma-buf's file system have no type.
        return "0000"
    return _TYPES.get(file.kind, "unknown")


def _device(dev: int | None) -> str | None:
    text = device_text(dev)
    return None if text is None else text.replace(":", ",")


def _size(r: FdRecord, file: FileRecord) -> str | None:
    if r.assoc == "DEL":
        return None
    if file.kind in ("chr", "blk", "fifo", "pipe", "sockfile"):
        return f"0t{file.pos}"
    return str(file.size)


def _name(r: FdRecord, file: FileRecord, name: bytes) -> bytes:
    if file.kind == "pipe":
        return b"pipe"
    if r.assoc == "DEL" and name.endswith(_DELETED):
        # The column FD says that it is deleted.
        return name[: -len(_DELETED)]
    if file.kind == "ns":
        # The number is in the column NODE.
        return name.partition(b":")[0]
    if not name.startswith(_ANON):
        return name
    name = name[len(_ANON) :]
    known = known_of(file)
    field = None if known is None else _TOLD.get(known.kind.name)
    if known is None or known.it is None or field is None:
        return name
    value = next((f.get(known.it) for f in known.kind.fields if f.name == field), None)
    if isinstance(value, (list, tuple)):
        numbers = sorted(item for item in value if not isinstance(item, Lost))
        value = ",".join([*map(str, numbers), *(LOST for item in value if isinstance(item, Lost))])
    elif field == "pid" and value == _GONE:
        return name
    return b"%b:%b]" % (name[:-1], str(value).encode()) if value not in (None, "") else name


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")


def fd(r: FdRecord) -> str | None:
    """Get the column FD: number, mode and lock as ``3uW``; or ``cwd`` and the like."""
    if r.assoc is not None:
        return r.assoc
    if r.fd is None:
        return None
    file = r.file
    if file is None:
        return str(r.fd)
    # lsof has no letter for access mode 3, nor for O_PATH.
    access = {"-": "", "p": ""}.get(file.access, file.access)
    return f"{r.fd}{access}{lock_letter(r)}"


# Sockets.


def _socket(file: FileRecord) -> Words:
    socket = file.socket
    ino = file.ino or 0
    if not isinstance(socket, SocketRecord):
        error = file.error or getattr(socket, "error", None)
        return Words("sock", _device(file.dev), "0t0", str(file.ino), _bytes(error))
    told = socket.lsof(ino)
    if told is not None:
        return Words(told.type, told.device, "0t0", told.node, told.name)
    # lsof shows no ends of these; we add them where the family has some.
    ends = socket.lsof_ends()
    name = b"protocol: %b%b" % (file.protocol, ends.encode())
    return Words("sock", _device(file.dev), "0t0", str(file.ino), name)
