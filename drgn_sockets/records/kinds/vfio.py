# SPDX-License-Identifier: LGPL-2.1-or-later
"""Devices given to user space: drivers/vfio/vfio_main.c."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn import FaultError, Object, offsetof

from drgn_sockets.kernel.memory import read_string
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind, shows_fdinfo
from drgn_sockets.text import escape

_MAX_DEPTH = 256
_NAME_MAX = 255


class _Kobject(Struct):
    C_TYPE = "struct kobject"

    name = Int("name")
    parent = Int("parent")


class VfioRecord(NamedTuple):
    """An open VFIO device."""

    #: Its directory below ``/sys``.
    path: bytes


class Vfio(Kind):
    """A VFIO device."""

    name = "vfio"
    fops = ("vfio_device_fops",)
    fields = (Field("syspath", "device given to user space", lambda it: escape(it.path)),)

    def read(self, file: FileRecord) -> VfioRecord:
        prog = file.prog
        # Kernels before v6.6 have no struct vfio_device_file and no line in fdinfo.
        dev = Object(prog, "struct vfio_device_file *", file.private_data).device.dev
        address = dev.value_() + offsetof(prog.type("struct device"), "kobj")
        names: list[bytes] = []
        while address:
            if len(names) > _MAX_DEPTH:
                raise FaultError("kobjects form a loop", address)
            kobject = _Kobject.layout(prog).read(address)
            names.append(read_string(prog, kobject.name, _NAME_MAX) or b"?")
            address = kobject.parent
        return VfioRecord(b"/" + b"/".join(reversed(names)))

    def fdinfo(self, file: FileRecord, it: VfioRecord) -> Iterator[bytes]:
        """``vfio_device_show_fdinfo()``, which only newer kernels have."""
        if shows_fdinfo(file):
            yield b"vfio-device-syspath: /sys%b\n" % it.path
