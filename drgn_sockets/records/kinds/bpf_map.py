# SPDX-License-Identifier: LGPL-2.1-or-later
"""BPF maps: kernel/bpf/syscall.c."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, NamedTuple

from drgn import Object, Program, TypeKind, offsetof, sizeof

from drgn_sockets.kernel.enums import enum_names
from drgn_sockets.kernel.memory import page_shift
from drgn_sockets.kernel.percpu import percpu_counter_sum, possible_cpus
from drgn_sockets.kernel.structs import Bytes, Int, OptInt, Struct
from drgn_sockets.kernel.symbols import symbol_name
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.records.kinds.bpf_prog import object_name

# include/uapi/linux/bpf.h
_BPF_F_NO_PREALLOC = 1 << 0
_BPF_F_MMAPABLE = 1 << 10
# kernel/bpf/hashtab.c, kernel/bpf/ringbuf.c
_HASHTAB_MAP_LOCK_COUNT = 8
_RINGBUF_POS_PAGES = 2


class Map(Struct):
    """``struct bpf_map``."""

    C_TYPE = "struct bpf_map"

    ops = Int("ops", help="const struct bpf_map_ops *")
    map_type = Int("map_type", help="BPF_MAP_TYPE_*")
    key_size = Int("key_size", help="size of a key, bytes")
    value_size = Int("value_size", help="size of a value, bytes")
    max_entries = Int("max_entries", help="how many entries there may be")
    map_flags = Int("map_flags", help="BPF_F_*")
    # Linux kernel commit 9330986c0300 ("bpf: Add bloom filter map implementation") (in v5.16)
    # added the member and its line.
    map_extra = OptInt("map_extra", help="by the type of map")
    id = Int("id", help="ID of the map")
    frozen = Int("frozen", help="whether user space may write it no more")
    name = Bytes("name", help="what it was given as its name")
    # Linux kernel commit 80ee81e0403c ("bpf: Eliminate rlimit-based memory accounting infra for
    # bpf maps") (in v5.11) removed the member.
    pages = OptInt("memory.pages", help="pages that were charged for it")


class _Ops(Struct):
    C_TYPE = "struct bpf_map_ops"

    # Linux kernel commit 90a5527d7686 ("bpf: add new map ops ->map_mem_usage") (in v6.4).
    map_mem_usage = OptInt("map_mem_usage")


class MapOwner(NamedTuple):
    """The type of the programs that a map of programs takes, and whether they are compiled."""

    type: int
    jited: int


class MapRecord(NamedTuple):
    """A BPF map, its memory, and the kind of its programs."""

    map: Map
    type: str
    memlock: int
    owner: MapOwner | None


def map_id(prog: Program, address: int) -> int:
    """
    The ID of a map.

    :param address: ``struct bpf_map *``
    :raises FaultError: if it cannot be read
    """
    return Map.layout(prog).read(address).id


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class _Memory:
    """
    The memory of a map, in bytes.

    Each method but :meth:`footprint` does what one ``map_mem_usage()`` does, see ``_USAGE``.
    """

    def __init__(self, prog: Program, map_: Map) -> None:
        self.prog = prog
        self.map = map_
        self.cpus = sum(1 for _ in possible_cpus(prog))
        self.page = 1 << page_shift(prog)
        types = enum_names(prog, "bpf_map_type", "BPF_MAP_TYPE_")
        self.types = types.values()
        self.type = types.get(map_.map_type, "")

    def _sizeof(self, name: str) -> int:
        return int(sizeof(self.prog.type(f"struct {name}")))

    def _as(self, name: str) -> Object:
        # struct bpf_map is the first member of these structures.
        return Object(self.prog, f"struct {name} *", self.map.address)

    def footprint(self) -> int:
        """``bpf_map_memory_footprint()``"""
        value_size = self.map.value_size
        if self.type in ("percpu_hash", "lru_percpu_hash", "percpu_array", "percpu_cgroup_storage"):
            value_size = _round_up(value_size, 8) * self.cpus
        elif self.type in ("perf_event_array", "cgroup_array", "array_of_maps", "hash_of_maps"):
            value_size = 4
        size = _round_up(self.map.key_size + value_size, 8)
        return _round_up(self.map.max_entries * size, self.page)

    def array_map(self) -> int:
        size, entries = int(self._as("bpf_array").elem_size), self.map.max_entries
        usage = self._sizeof("bpf_array")
        if self.type == "percpu_array":
            return int(usage + entries * 8 + entries * size * self.cpus)
        if self.map.map_flags & _BPF_F_MMAPABLE:
            return _round_up(usage, self.page) + _round_up(int(entries * size), self.page)
        return int(usage + entries * size)

    def htab_map(self) -> int:
        htab = self._as("bpf_htab")
        percpu, lru = "percpu" in self.type, "lru" in self.type
        elem_size = htab.elem_size.value_()
        value_size = _round_up(self.map.value_size, 8)
        usage = self._sizeof("bpf_htab") + self._sizeof("bucket") * htab.n_buckets.value_()
        # Linux kernel commit 4fa8d68aa53e ("bpf: Convert hashtab.c to rqspinlock") (in v6.15)
        # removed these per-CPU counters. v6.18 still counts them; v7.2 does not. No type tells
        # that; maps of this type came in between.
        if "insn_array" not in self.types:
            usage += 4 * self.cpus * _HASHTAB_MAP_LOCK_COUNT
        if not self.map.map_flags & _BPF_F_NO_PREALLOC:
            extra = not (percpu or lru or self.type == "hash_of_maps")
            entries = self.map.max_entries + (self.cpus if extra else 0)
            usage += elem_size * entries
            if percpu:
                usage += value_size * self.cpus * entries
            elif not lru:
                usage += 8 * self.cpus
            return int(usage)
        if htab.use_percpu_counter:
            entries = percpu_counter_sum(htab.pcount.address_of_())
        else:
            entries = htab.count.counter.value_()
        usage += (elem_size + 8) * entries
        if percpu:
            usage += (16 + value_size * self.cpus) * entries
        return int(usage)

    def ringbuf_map(self) -> int:
        pages = self._as("bpf_ringbuf_map").rb.nr_pages.value_()
        data = self.map.max_entries // self.page
        usage = self._sizeof("bpf_ringbuf_map") + pages * self.page
        # RINGBUF_NR_META_PAGES
        ringbuf = self.prog.type("struct bpf_ringbuf")
        meta = offsetof(ringbuf, "consumer_pos") // self.page + _RINGBUF_POS_PAGES
        return int(usage + (meta + 2 * data) * 8)

    def trie(self) -> int:
        trie = self._as("lpm_trie")
        size = self._sizeof("lpm_trie_node") + trie.data_size.value_() + self.map.value_size
        return int(size * trie.n_entries.value_())

    def queue_stack_map(self) -> int:
        return self._sizeof("bpf_queue_stack") + (self.map.max_entries + 1) * self.map.value_size

    def stack_map(self) -> int:
        bucket = self._sizeof("stack_map_bucket")
        buckets = self._as("bpf_stack_map").n_buckets.value_()
        usage = self._sizeof("bpf_stack_map") + buckets * 8
        return int(usage + self.map.max_entries * (bucket + self.map.value_size))

    def dev_map(self) -> int:
        dtab = self._as("bpf_dtab")
        hashed = self.type == "devmap_hash"
        slots = dtab.n_buckets.value_() if hashed else self.map.max_entries
        usage = self._sizeof("bpf_dtab") + slots * 8
        return int(usage + dtab.items.value_() * self._sizeof("bpf_dtab_netdev"))

    def bloom_map(self) -> int:
        bits = self._as("bpf_bloom_filter").bitset_mask.value_() + 1
        return self._sizeof("bpf_bloom_filter") + _round_up(_round_up(bits, 8) // 8, 8)

    def cpu_map(self) -> int:
        return self._sizeof("bpf_cpu_map") + self.map.max_entries * 8

    def bpf_local_storage_map(self) -> int:
        buckets = 1 << self._as("bpf_local_storage_map").bucket_log.value_()
        size = self._sizeof("bpf_local_storage_map")
        return int(size + self._sizeof("bpf_local_storage_map_bucket") * buckets)

    def sock_map(self) -> int:
        return self._sizeof("bpf_stab") + self.map.max_entries * 8

    def arena_map(self) -> int:
        return 0


_USAGE: dict[str, Callable[[_Memory], int]] = {
    "array_map_mem_usage": _Memory.array_map,
    "htab_map_mem_usage": _Memory.htab_map,
    "ringbuf_map_mem_usage": _Memory.ringbuf_map,
    "trie_mem_usage": _Memory.trie,
    "queue_stack_map_mem_usage": _Memory.queue_stack_map,
    "stack_map_mem_usage": _Memory.stack_map,
    "dev_map_mem_usage": _Memory.dev_map,
    "bloom_map_mem_usage": _Memory.bloom_map,
    "cpu_map_mem_usage": _Memory.cpu_map,
    "bpf_local_storage_map_mem_usage": _Memory.bpf_local_storage_map,
    "sock_map_mem_usage": _Memory.sock_map,
    "arena_map_mem_usage": _Memory.arena_map,
}


def _memlock(prog: Program, map_: Map) -> int:
    if map_.pages is not None:
        return map_.pages << page_shift(prog)
    memory = _Memory(prog, map_)
    usage = _Ops.layout(prog).read(map_.ops).map_mem_usage
    if usage is None:
        return memory.footprint()
    name = symbol_name(prog, usage)
    if name not in _USAGE:
        raise LookupError(f"memory of a map of type {map_.map_type} is not known ({name})")
    return _USAGE[name](memory)


def _owner(prog: Program, map_: Map) -> MapOwner | None:
    bpf_map = prog.type("struct bpf_map")
    if not bpf_map.has_member("owner"):
        # Linux kernel commit f45d5b6ce2e8 ("bpf: generalise tail call map compatibility check")
        # (in v5.18) moved owner from struct bpf_array_aux to struct bpf_map.
        names = enum_names(prog, "bpf_map_type", "BPF_MAP_TYPE_")
        if names.get(map_.map_type) != "prog_array":
            return None
        owner = Object(prog, "struct bpf_array *", map_.address).aux.owner
    else:
        owner = Object(prog, "struct bpf_map *", map_.address).owner
        # Linux kernel commit fd1c98f0ef5c ("bpf: Move bpf map owner out of common struct") (in
        # v6.17, and in stable kernels) made it a pointer.
        if bpf_map.member("owner").type.kind == TypeKind.POINTER and not owner:
            return None
    found = MapOwner(owner.type.value_(), int(owner.jited.value_()))
    return found if found.type else None


class BpfMap(Kind):
    """A BPF map."""

    name = "bpf_map"
    fops = ("bpf_map_fops",)
    fields = (
        Field("id", "ID of a BPF map", lambda it: it.map.id),
        Field("type", "type of a BPF map", lambda it: it.type),
        Field("type.raw", "the same as a number", lambda it: it.map.map_type, False),
        Field("name", "name of a BPF map", lambda it: object_name(it.map.name)),
        Field("key_size", "size of a key of a BPF map, bytes", lambda i: i.map.key_size, False),
        Field("value_size", "size of a value, bytes", lambda it: it.map.value_size, False),
        Field("max_entries", "how many entries there may be", lambda i: i.map.max_entries, False),
        Field("memlock", "memory of a BPF map, bytes", lambda it: it.memlock, False),
        Field(
            "frozen", "whether user space may write no more", lambda i: bool(i.map.frozen), False
        ),
    )

    def read(self, file: FileRecord) -> MapRecord:
        prog = file.prog
        map_ = Map.layout(prog).read(file.private_data)
        types = enum_names(prog, "bpf_map_type", "BPF_MAP_TYPE_")
        type_ = types.get(map_.map_type, f"UNKNOWN({map_.map_type})").replace("_", "-")
        return MapRecord(map_, type_, _memlock(prog, map_), _owner(prog, map_))

    def fdinfo(self, file: FileRecord, it: MapRecord) -> Iterator[bytes]:
        """``bpf_map_show_fdinfo()``"""
        map_ = it.map
        yield b"map_type:\t%d\n" % map_.map_type
        yield b"key_size:\t%d\n" % map_.key_size
        yield b"value_size:\t%d\n" % map_.value_size
        yield b"max_entries:\t%d\n" % map_.max_entries
        yield b"map_flags:\t%#x\n" % map_.map_flags
        if map_.map_extra is not None:
            yield b"map_extra:\t%#x\n" % map_.map_extra
        yield b"memlock:\t%d\n" % it.memlock
        yield b"map_id:\t%d\n" % map_.id
        yield b"frozen:\t%d\n" % map_.frozen
        if it.owner is not None:
            yield b"owner_prog_type:\t%d\n" % it.owner.type
            yield b"owner_jited:\t%d\n" % it.owner.jited
