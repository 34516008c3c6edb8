# SPDX-License-Identifier: LGPL-2.1-or-later
"""tun and tap interfaces: drivers/net/tun.c."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn_sockets.kernel.structs import CString, Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind


class _TunFile(Struct):
    C_TYPE = "struct tun_file"

    tun = Int("tun")


class _TunStruct(Struct):
    C_TYPE = "struct tun_struct"

    dev = Int("dev")


class _NetDevice(Struct):
    C_TYPE = "struct net_device"

    name = CString("name")


class Interface(NamedTuple):
    """The network interface of a tun or tap file."""

    #: ``None`` if the file has no interface yet.
    name: bytes | None


class Tun(Kind):
    """tun and tap interfaces."""

    name = "tun"
    fops = ("tun_fops",)
    fields = (Field("iface", "network interface of a tun or tap file", lambda it: it.name),)

    def read(self, file: FileRecord) -> Interface:
        prog = file.prog
        files, tuns = _TunFile.layout(prog), _TunStruct.layout(prog)
        tun = files.read(file.private_data).tun
        if not tun:
            return Interface(None)
        return Interface(_NetDevice.layout(prog).read(tuns.read(tun).dev).name)

    def fdinfo(self, file: FileRecord, it: Interface) -> Iterator[bytes]:
        """``tun_chr_show_fdinfo()``"""
        yield b"iff:\t%b\n" % (it.name or b"")
