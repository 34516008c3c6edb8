# SPDX-License-Identifier: LGPL-2.1-or-later
"""The storage of BPF programs in a socket (``bpf_sk_storage_diag_put_all()``)."""

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
# No socket has more storages, and netlink cannot send larger values.
_MAX_STORAGES = 1 << 12
_MAX_VALUE = 1 << 16


class _LocalStorage(Struct):
    C_TYPE = "struct bpf_local_storage"
    first = Int("list.first")


class _Element(Struct):
    C_TYPE = "struct bpf_local_storage_elem"
    next = Int("snode.next")
    map = Int("sdata.smap")
    data = Int("sdata.data")  # A flexible array: the value follows the structure.


class _Map(Struct):
    C_TYPE = "struct bpf_map"
    id = Int("id")
    value_size = Int("value_size")
    # Where a value has locks, timers and pointers.
    # Linux kernel commit aa3496accc41 ("bpf: Refactor kptr_off_tab into btf_record") (in v6.2)
    record = OptInt("record")
    spin_lock_off = OptInt("spin_lock_off")
    timer_off = OptInt("timer_off")
    kptr_off_tab = OptInt("kptr_off_tab")

    def is_plain(self) -> bool:
        """Whether its values are data alone, without locks, timers and pointers."""
        offsets = (self.spin_lock_off, self.timer_off)
        if any(offset is not None and offset >= 0 for offset in offsets):
            return False
        # NULL or an error pointer: the values have no BTF, or no such members.
        pointers = (self.record, self.kptr_off_tab)
        return all(not pointer or pointer > -4096 & (1 << 64) - 1 for pointer in pointers)


def storages(diag: Diag, sock: Sock) -> bytes | None:
    """
    Make ``INET_DIAG_SK_BPF_STORAGES``, with all storages.

    :raises LookupError: if a value has locks, timers or pointers in it
    :raises FaultError: if the list of storages cannot be read
    """
    if not sock.bpf_storage:
        return None
    prog = diag.prog
    elements = _Element.layout(prog)
    maps = _Map.layout(prog)
    first = _LocalStorage.layout(prog).read(sock.bpf_storage).first
    told: list[bytes] = []
    for element in unbroken(hlist_for_each_entry(elements, first, "next", _MAX_STORAGES)):
        # smap is a struct bpf_local_storage_map, which begins with a struct bpf_map. It is NULL
        # for a while after the map is gone.
        map_ = maps.read(element.map) if element.map else None
        if map_ is None:
            continue
        if not diag.secrets:
            raise LookupError("storage of BPF programs is not read here")
        if not map_.is_plain():
            raise LookupError(f"values of map {map_.id} have locks, timers or pointers in them")
        size = min(map_.value_size, _MAX_VALUE)
        value = read_bytes(prog, element.address + elements.cls.places["data"].offset, size)
        if value is None:
            raise LookupError(f"a value of map {map_.id} cannot be read")
        storage = {_MAP_ID: diag.u32(map_.id), _MAP_VALUE: value}
        told.append(diag.nest({_STORAGE | NLA_F_NESTED: diag.nest(storage)}))
    return b"".join(told) or None


def _none(diag: Diag, record: object) -> None:
    return None


#: Layout of the payload of ``INET_DIAG_SK_BPF_STORAGES``.
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
