# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Damage that ``make torture`` found, in the core of the demo: what is said of it.

Each fault is planted in a child, in a place that is found by the names of the kernel's variables
and by what the workloads say of themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn

import pytest
from drgn import Program

from drgn_sockets import demo
from drgn_sockets.errors import UserError
from drgn_sockets.target.kallsyms import OddKallsymsError
from drgn_sockets.target.symbols import _QuickSymbols
from tests.torture.bed import Bed
from tests.torture.commands import Run
from tests.torture.outcome import Done


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """The core, open."""
    yield Bed(demo.CORE, ("--types", "btf"), tmp_path_factory.mktemp("damaged"))


def told(done: Done, status: int, *words: str) -> None:
    """What a command said, and no traceback."""
    assert done.status == status, done.err
    for word in words:
        assert re.search(word, done.err), done.err


@pytest.mark.parametrize("form", ["kdump", "elf"])
@pytest.mark.parametrize(
    "line",
    ["|OSRELEASE=", "BUILD-ID=|", "NUMBER(SECTION_SIZE_BITS)=|"],
)
def test_vmcoreinfo(bed: Bed, form: str, line: str) -> None:
    data = bed.files[form].data
    at = data.index(line.replace("|", "").encode()) + line.index("|")
    done = bed.run(Run("fds", ("fds",)), f"{form}:{at:x}=7a7a7a")
    told(done, 2, r"^drgn-sockets: .* is damaged: .*VMCOREINFO.*\n$")


def test_names_of_kallsyms(bed: Bed) -> None:
    start = bed.where(bed.prog.symbol("kallsyms_names").address)
    frame = bed.prog.read(start // 4096 * 4096, 4096, physical=True)
    at = bed.files["elf"].data.index(frame) + start % 4096
    done = bed.run(Run("fds", ("fds",)), f"elf:{at:x}={'ff' * 256}")
    told(done, 2, r"^drgn-sockets: [^\n]*\(kallsyms\)[^\n]*\n$")


def test_kallsyms_that_no_way_leads_into() -> None:
    def odd(what: object) -> NoReturn:
        raise OddKallsymsError("odd")

    def broken(prog: Program) -> NoReturn:
        raise ValueError("Unexpected 3-byte length encoding in kallsyms names")

    find = _QuickSymbols(odd, odd, broken)
    with pytest.raises(UserError, match="kallsyms"):
        find(Program(), "init_task", None, True)


@pytest.mark.parametrize("value", ["0000000000000000", "ffffffffffffffff"])
def test_length_of_a_jiffy(bed: Bed, value: str) -> None:
    done = bed.run(
        Run("tcp", ("tcp", "180:3")), f"{bed.prog.symbol('tick_nsec').address:x}={value}"
    )
    told(done, 2, "tick_nsec cannot be read: -?[0-9]+ ns is no length of a jiffy")
