# SPDX-License-Identifier: LGPL-2.1-or-later
"""What BPF programs keep with a socket, as ``bpf_sk_storage_diag_put_all()`` tells it."""

from __future__ import annotations

from drgn_sockets.kernel.lists import hlist_for_each_entry
from drgn_sockets.kernel.lost import unbroken
from drgn_sockets.kernel.memory import read_bytes
from drgn_sockets.kernel.sock import Sock
from drgn_sockets.kernel.structs import Int, OptInt, Struct
from drgn_sockets.views.diag.base import Attribute, Diag
from drgn_sockets.views.diag.forms import NLA_F_NESTED

# include/uapi/linux/sock_diag.h: SK_DIAG_BPF_STORAGE*
_STORAGE = 1
_MAP_ID, _MAP_VALUE = 2, 3
# More storages than a socket has, and larger values than netlink can send.
_MAX_STORAGES = 1 << 12
_MAX_VALUE = 1 << 16


class _LocalStorage(Struct):
    C_TYPE = "struct bpf_local_storage"
    first = Int("list.first")


class _Element(Struct):
    C_TYPE = "struct bpf_local_storage_elem"
    next = Int("snode.next")
    map = Int("sdata.smap")
    data = Int("sdata.data")  # None of it is in the structure itself.


class _Map(Struct):
    C_TYPE = "struct bpf_map"
    id = Int("id")
    value_size = Int("value_size")
    # What a value has that is no data: locks, timers, pointers.
    # Linux kernel commit aa3496accc41 ("bpf: Refactor kptr_off_tab into btf_record") (in v6.2)
    record = OptInt("record")
    spin_lock_off = OptInt("spin_lock_off")
    timer_off = OptInt("timer_off")
    kptr_off_tab = OptInt("kptr_off_tab")

    def is_plain(self) -> bool:
        """Whether its values are data, and nothing else."""
        offsets = (self.spin_lock_off, self.timer_off)
        if any(offset is not None and offset >= 0 for offset in offsets):
            return False
        # Null, or an error: the type of the values was not told, or has no such members.
        pointers = (self.record, self.kptr_off_tab)
        return all(not pointer or pointer > -4096 & (1 << 64) - 1 for pointer in pointers)


def storages(diag: Diag, sock: Sock) -> bytes | None:
    """
    ``INET_DIAG_SK_BPF_STORAGES`` to who asks for all.

    :raises LookupError: if a value has more than data in it
    :raises FaultError: if it cannot be read
    """
    if not sock.bpf_storage:
        return None
    prog = diag.prog
    elements = _Element.layout(prog)
    maps = _Map.layout(prog)
    first = _LocalStorage.layout(prog).read(sock.bpf_storage).first
    told: list[bytes] = []
    for element in unbroken(hlist_for_each_entry(elements, first, "next", _MAX_STORAGES)):
        # It is at the beginning of a struct bpf_local_storage_map. A map that goes away leaves
        # its elements for a while.
        map_ = maps.read(element.map) if element.map else None
        if map_ is None:
            continue
        if not diag.secrets:
            raise LookupError("what programs keep is left alone")
        if not map_.is_plain():
            raise LookupError(f"values of map {map_.id} have more than data in them")
        size = min(map_.value_size, _MAX_VALUE)
        value = read_bytes(prog, element.address + elements.cls.places["data"].offset, size)
        if value is None:
            raise LookupError(f"a value of map {map_.id} cannot be read")
        storage = {_MAP_ID: diag.u32(map_.id), _MAP_VALUE: value}
        told.append(diag.nest({_STORAGE | NLA_F_NESTED: diag.nest(storage)}))
    return b"".join(told) or None


def _none(diag: Diag, record: object) -> None:
    return None


#: What is in that attribute.
FORM = {
    _STORAGE: Attribute(
        _STORAGE,
        "SK_DIAG_BPF_STORAGE",
        _none,
        {
            _MAP_ID: Attribute(_MAP_ID, "SK_DIAG_BPF_STORAGE_MAP_ID", _none, "u32"),
            _MAP_VALUE: Attribute(_MAP_VALUE, "SK_DIAG_BPF_STORAGE_MAP_VALUE", _none, "bytes"),
        },
    )
}
