# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a guest's memory is, as QEMU 7.2 says it (q35 with 4 GiB)."""

from __future__ import annotations

from drgn_sockets.target.qmp import parse_mtree

_MTREE = """\
FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom
  0000000000100000-000000007fffffff (prio 0, ram): pc.ram @0000000000100000
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
  0000000100000000-000000017fffffff (prio 0, nv-ram): pc.ram @0000000080000000

FlatView #2
 AS "cpu-smm-0", root: memory
 Root memory region: memory
  0000000000000000-00000000000bffff (prio 0, ram): pc.ram
"""


def test_ranges() -> None:
    found = parse_mtree(_MTREE)
    assert found == [(0, 0xA0000), (0x100000, 0x7FF00000), (0x100000000, 0x80000000)]


def test_no_ranges() -> None:
    assert parse_mtree("") == parse_mtree("unknown command") == []
