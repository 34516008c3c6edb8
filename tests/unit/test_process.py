# SPDX-License-Identifier: LGPL-2.1-or-later
"""What files of processes are made of, as the kernel's own comments and tests have it."""

from __future__ import annotations

import pytest

from drgn_sockets.kernel.process import CpuTime, cputime_adjust
from drgn_sockets.views.procfs.pid.moments import stat_fields
from drgn_sockets.views.procfs.pid.status import bitmap, bitmap_list


@pytest.mark.parametrize(
    ("value", "count", "text", "ranges"),
    [
        (0, 2, "0", ""),
        (3, 2, "3", "0-1"),
        (1, 1024, ",".join(["00000000"] * 31 + ["00000001"]), "0"),
        # lib/test_printf.c: bitmap() and Documentation/core-api/printk-formats.rst
        (0b1011, 20, "0000b", "0-1,3"),
        (1 << 32 | 1, 40, "01,00000001", "0,32"),
        (1 << 31, 32, "80000000", "31"),
        ((1 << 64) - 1, 64, "ffffffff,ffffffff", "0-63"),
        (0x5, 3, "5", "0,2"),
    ],
)
def test_bitmaps(value: int, count: int, text: str, ranges: str) -> None:
    assert bitmap(value, count) == text
    assert bitmap_list(value) == ranges


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        # No ticks yet: all of it is the user's.
        (CpuTime(0, 0, 70, 0, 0), (70, 0)),
        (CpuTime(4, 0, 70, 0, 0), (70, 0)),
        (CpuTime(0, 4, 70, 0, 0), (0, 70)),
        # In the ratio of ticks.
        (CpuTime(30, 10, 400, 0, 0), (300, 100)),
        # What was told before stays true, also where the exact time is behind it.
        (CpuTime(30, 10, 400, 350, 0), (350, 50)),
        (CpuTime(30, 10, 400, 0, 200), (200, 200)),
        (CpuTime(30, 10, 400, 390, 20), (390, 20)),
    ],
)
def test_cpu_time(time: CpuTime, expected: tuple[int, int]) -> None:
    assert cputime_adjust(time) == expected
    assert sum(expected) >= time.sum_exec_runtime


def test_stat_with_any_name() -> None:
    rest = b" ".join([b"S"] + [b"%d" % i for i in range(49)])
    fields = stat_fields(b"7 (a) (b \n) %b\n" % rest)
    assert (fields["pid"], fields["comm"], fields["state"]) == (b"7", b"a) (b \n", b"S")
    assert fields["exit_code"] == b"48"
    with pytest.raises(ValueError, match="not a stat"):
        stat_fields(b"7 (a) S 1\n")
