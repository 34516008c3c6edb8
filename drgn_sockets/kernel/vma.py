# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mappings of processes: ``struct mm_struct`` and ``struct vm_area_struct``."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import Program, offsetof

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.memory import pointer_size, unpack_words
from drgn_sockets.kernel.rbtree import rb_for_each
from drgn_sockets.kernel.structs import Bytes, Int, Layout, Struct
from drgn_sockets.program import is_live

# include/linux/mm.h
VM_READ = 0x1
VM_WRITE = 0x2
VM_EXEC = 0x4
VM_MAYSHARE = 0x80

# sysctl vm.max_map_count is 65,530 unless somebody has set it.
_MAX_MAPPINGS = 1 << 21
# lib/maple_tree.c: an entry whose low two bits are 2 is a node, unless its value is reserved.
_NODE_BITS = 3
_NODE = 2
_RESERVED = 4096
# Nodes are aligned to 256 bytes; the low bits of the entry hold the type of the node.
_NODE_MASK = 0xFF
_TYPE_SHIFT, _TYPE_MASK = 3, 0xF
_LEAF_64, _RANGE_64, _ARANGE_64 = 1, 2, 3


class _MmByTree(Struct):
    C_TYPE = "struct mm_struct"

    # Linux kernel commit d4af56c5c7c6 ("mm: start tracking VMAs with maple tree") (in v6.1)
    root = Int("mm_mt.ma_root", help="void *, entry of a maple tree")
    map_count = Int("map_count", help="number of mappings")


class _MmByRb(Struct):
    C_TYPE = "struct mm_struct"

    # Linux kernel commit 524e00b36e8c ("mm: remove rb tree.") (in v6.1)
    root = Int("mm_rb.rb_node", help="struct rb_node *")
    map_count = Int("map_count", help="number of mappings")


class _MapleNode(Struct):
    C_TYPE = "struct maple_node"

    range_pivots = Bytes("mr64.pivot", help="unsigned long[]")
    range_slots = Bytes("mr64.slot", help="void *[]")
    arange_pivots = Bytes("ma64.pivot", help="unsigned long[]")
    arange_slots = Bytes("ma64.slot", help="void *[]")


class Mapping(Struct):
    """``struct vm_area_struct``."""

    C_TYPE = "struct vm_area_struct"

    start = Int("vm_start", help="first address")
    end = Int("vm_end", help="address after the last")
    mm = Int("vm_mm", help="struct mm_struct *")
    flags = Int("vm_flags", help="VM_* flags")
    pgoff = Int("vm_pgoff", help="offset in the file, pages")
    file = Int("vm_file", help="struct file *")
    ops = Int("vm_ops", help="struct vm_operations_struct *, NULL for anonymous memory")


def _mm_layout(prog: Program) -> Layout[_MmByTree] | Layout[_MmByRb]:
    has_tree = prog.type("struct mm_struct").has_member("mm_mt")
    return _MmByTree.layout(prog) if has_tree else _MmByRb.layout(prog)


def mappings(prog: Program, mm: int) -> Iterator[Mapping | Lost]:
    """
    Iterate over the mappings of files, in the order of their addresses.

    :param mm: ``struct mm_struct *`` as an integer
    :return: Iterator of the decoded ``struct vm_area_struct``. A ``Lost`` stands for those that
        cannot be read; it may come before mappings at lower addresses.
    :raises FaultError: if *mm* cannot be read
    """
    return (vma for vma in all_mappings(prog, mm) if isinstance(vma, Lost) or vma.file)


def all_mappings(prog: Program, mm: int) -> Iterator[Mapping | Lost]:
    """Like :func:`mappings`, with mappings of anonymous memory included."""
    layout = _mm_layout(prog)
    of_mm = layout.read(mm)
    walk = _maple_entries if issubclass(layout.cls, _MmByTree) else _rb_entries
    addresses = []
    whole = True
    for entry in walk(prog, of_mm.root):
        if isinstance(entry, Lost):
            whole = False
            yield entry
        else:
            addresses.append(entry)
    # A live process may unmap between the two reads. A core that was distilled before map_count was
    # asked for has 0 there.
    missing = of_mm.map_count - len(addresses)
    if whole and 0 < missing <= _MAX_MAPPINGS and not is_live(prog):
        yield Lost("tree of struct vm_area_struct", mm, f"it lacks {missing} of {of_mm.map_count}")
    found = []
    for vma in Mapping.layout(prog).read_many(addresses):
        # A damaged tree may lead to freed memory, or to a mapping of another process.
        if isinstance(vma, Lost) or vma.mm != mm:
            yield Lost("struct vm_area_struct", vma.address)
        else:
            found.append(vma)
    yield from sorted(found, key=lambda vma: vma.start)


def _rb_entries(prog: Program, root: int) -> Iterator[int | Lost]:
    offset = offsetof(prog.type("struct vm_area_struct"), "vm_rb")
    for node in rb_for_each(prog, root, _MAX_MAPPINGS):
        yield node if isinstance(node, Lost) else node - offset


def _maple_entries(prog: Program, root: int) -> Iterator[int | Lost]:
    """The entries of a maple tree, as ``mas_for_each()`` finds them."""
    layout = _MapleNode.layout(prog)
    most = (1 << 8 * pointer_size(prog)) - 1
    found: set[int] = set()
    seen: set[int] = set()
    # The nodes of a level, each with the greatest index below it.
    is_node = root & _NODE_BITS == _NODE and root > _RESERVED
    level = {root: most} if is_node else {}
    while level and len(found) < _MAX_MAPPINGS:
        below: dict[int, int] = {}
        entries = {entry & ~_NODE_MASK: entry for entry in level}
        seen |= entries.keys()
        for node in layout.read_many(entries):
            address = node.address
            type_ = entries[address] >> _TYPE_SHIFT & _TYPE_MASK
            if isinstance(node, Lost) or type_ not in (_LEAF_64, _RANGE_64, _ARANGE_64):
                yield Lost("struct maple_node", address)
                continue
            for slot, last in _slots(prog, node, type_, level[entries[address]]):
                if type_ == _LEAF_64:
                    if slot and not slot & _NODE_BITS:
                        found.add(slot)
                elif slot & ~_NODE_MASK in seen:
                    yield Lost("struct maple_node", slot & ~_NODE_MASK, "tree has two ways to it")
                # Entries in nodes lack the low bits that mark the root as a node.
                elif slot > _RESERVED:
                    below[slot] = last
        level = below
    if level:
        yield Lost("struct maple_node", root, f"tree has more than {_MAX_MAPPINGS} entries")
    yield from found


def _slots(prog: Program, node: _MapleNode, type_: int, most: int) -> Iterator[tuple[int, int]]:
    """The slots in use, each with the greatest index in it."""
    is_arange = type_ == _ARANGE_64
    slots = unpack_words(prog, node.arange_slots if is_arange else node.range_slots)
    pivots = unpack_words(prog, node.arange_pivots if is_arange else node.range_pivots)
    for i, slot in enumerate(slots):
        # As mas_safe_pivot(): behind the last pivot there is one slot, up to the node's end.
        last = pivots[i] if i < len(pivots) else most
        if i and not last:
            last = most
        yield slot, min(last, most)
        if last >= most:
            break
