# SPDX-License-Identifier: LGPL-2.1-or-later
"""
XArrays of pointers. IDRs and radix trees are XArrays since Linux 4.20.

drgn has ``xa_for_each()`` and ``xa_load()`` as well; its walk trusts the tree, and reads node by
node.
"""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, Program

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.memory import distilled_by, pointer_size, unpack_words
from drgn_sockets.kernel.structs import Bytes, Int, Struct
from drgn_sockets.program import is_live

# include/linux/xarray.h: the low bits of an entry are 0 for a pointer, 2 for an internal entry.
# An internal entry above _MAX_INTERNAL is a pointer to a node; the others stand for no entry.
_TAG = 3
_INTERNAL = 2
_MAX_INTERNAL = 4096
_LONG_BITS = 64
# How often a node of a live kernel is read that does not fit.
_LOOKS = 3

_MAX_ENTRIES = 1 << 23


class _XaNode(Struct):
    C_TYPE = "struct xa_node"

    shift = Int("shift", help="bits of an index that are told below this node")
    offset = Int("offset", help="the slot of the node above that leads to this one")
    count = Int("count", help="number of slots that are not NULL")
    parent = Int("parent", help="struct xa_node * above, NULL for the root")
    slots = Bytes("slots", help="void *[], entries")


def _is_node(entry: int) -> bool:
    """``xa_is_node()``"""
    return entry & _TAG == _INTERNAL and entry > _MAX_INTERNAL


def xa_for_each(
    prog: Program, head: int, limit: int = _MAX_ENTRIES
) -> Iterator[tuple[int, int] | Lost]:
    """
    Iterate over the pointers in an XArray, as ``xa_for_each()``.

    Nodes are read level by level, in the order of addresses.

    :param head: ``xa_head``, or ``idr_rt.xa_head`` of an IDR
    :param limit: How many pointers there may be
    :return: Iterator of (index, pointer) in the order of indexes. A ``Lost`` stands for a node
        that cannot be read, or is none, and for an entry that is no pointer.
    """
    if not _is_node(head):
        if head and not head & _TAG:
            yield 0, head
        elif head & _TAG != _INTERNAL:
            yield from [Lost("XArray", head, "entry is no pointer")] if head else []
        return
    layout = _XaNode.layout(prog)
    bits = _slots(prog).bit_length() - 1
    found: list[tuple[int, int | Lost]] = []
    # The nodes of a level by address, with the first index below each, and the node and slot above.
    # The shift of a level is known from the one above; -1 stands for that of the root, which is not
    # known.
    level, shift = {head - _INTERNAL: (0, 0, 0)}, -1
    distilled, live = distilled_by(prog) is not None, is_live(prog)
    while level:
        if len(found) > limit:
            found += [
                (index, Lost("struct xa_node", node, f"XArray has more than {limit} entries"))
                for node, (index, *_) in level.items()
            ]
            break
        below: dict[int, tuple[int, int, int]] = {}
        for node in layout.read_many(level):
            address = node.address
            first, parent, offset = level[address]
            if isinstance(node, Lost) or node.shift >= _LONG_BITS or shift not in (-1, node.shift):
                why = "" if isinstance(node, Lost) else "not a node of this XArray"
                found.append((first, Lost("struct xa_node", address, why)))
                continue
            shift = node.shift
            slots = unpack_words(prog, node.slots)
            looks = _LOOKS - 1 if live else 0
            while (why := _wrong(node, slots, parent, offset, distilled)) and looks:
                # A live kernel changes the count after the slot.
                node, looks = layout.read(address), looks - 1
                slots = unpack_words(prog, node.slots)
            if why:
                found.append((first, Lost("struct xa_node", address, why)))
            for i, entry in enumerate(slots):
                if not entry:
                    continue
                index = first + (i << shift)
                if not entry & _TAG and not shift:
                    found.append((index, entry))
                elif _is_node(entry) and shift:
                    child = entry - _INTERNAL
                    if child in below:
                        found.append((index, Lost("struct xa_node", child, "two slots lead to it")))
                    else:
                        below[child] = index, address, i
                elif entry & _TAG != _INTERNAL or entry > _MAX_INTERNAL:
                    found.append((index, Lost("struct xa_node", address, "entry is no pointer")))
        level, shift = below, shift - bits
    for index, found_there in sorted(found, key=lambda one: one[0]):
        yield found_there if isinstance(found_there, Lost) else (index, found_there)


def _wrong(node: _XaNode, slots: tuple[int, ...], parent: int, offset: int, distilled: bool) -> str:
    """What a node says of itself that does not fit, or nothing."""
    if distilled and not node.count:
        # Cores that were distilled by earlier versions lack what was not read then.
        return ""
    if (node.parent, node.offset) != (parent, offset):
        return "it belongs elsewhere in the XArray"
    used = len(slots) - slots.count(0)
    return f"it has {used} entries instead of {node.count}" if used != node.count else ""


def xa_load(prog: Program, head: int, index: int) -> int:
    """
    Find the pointer at an index, as ``xa_load()``.

    :param head: ``xa_head``, or ``idr_rt.xa_head`` of an IDR
    :return: 0 if there is none
    :raises FaultError: if a node on the way cannot be read, or is none
    """
    layout = _XaNode.layout(prog)
    slots = _slots(prog)
    entry, above = head, _LONG_BITS
    while _is_node(entry):
        node = layout.read(entry - _INTERNAL)
        if node.shift >= above:
            raise FaultError("not a node of this XArray", node.address)
        slot = index >> node.shift
        if above == _LONG_BITS and slot >= slots:
            # The root has no slot for this index.
            return 0
        entry = unpack_words(prog, node.slots)[slot % slots]
        above = node.shift
    if above == _LONG_BITS:
        # An XArray without a node has at most one pointer, at index 0.
        return 0 if entry & _TAG or index else entry
    return 0 if entry & _TAG or above else entry


def _slots(prog: Program) -> int:
    """``XA_CHUNK_SIZE``"""
    return _XaNode.layout(prog).cls.places["slots"].size // pointer_size(prog)
