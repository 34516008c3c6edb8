# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables of what takes long."""

from __future__ import annotations

from tests.wide.__main__ import Row, put, table
from tests.wide.drgn_suite import wants


def test_a_table_takes_the_place_of_its_predecessor() -> None:
    rows = [Row("seed 1", "nothing found", True, 90), Row("seed 2", "found one", False, 6)]
    text = put("", "fuzz", table("fuzz", rows, "abc, today"))
    assert text.splitlines()[-2:] == [
        "| seed 1 | nothing found | 1.5 |",
        "| seed 2 | **failed**: found one | 0.1 |",
    ]
    both = put(text, "faults", table("faults", rows[:1], "abc, today"))
    assert both.index("## faults") < both.index("## fuzz") and text.partition("## ")[2] in both
    again = put(both, "fuzz", table("fuzz", rows[:1], "def, later"))
    assert "found one" not in again and again.count("## ") == 2 and "Commit def, later." in again
    assert again.startswith("# Tests that take long\n") and again.count("# Tests that") == 1


def test_what_is_for_want_of_a_type() -> None:
    text = """
E       LookupError: the type of tk_core is not known: BTF has it of few variables
E       ZeroDivisionError: division by zero
E           _drgn.ObjectNotFoundError: could not find 'mnt_cache'
E       AttributeError: 'struct net' has no member 'x'
"""
    assert [line.split(":")[0] for line in wants(text)] == [
        *("LookupError", "_drgn.ObjectNotFoundError", "AttributeError")
    ]
