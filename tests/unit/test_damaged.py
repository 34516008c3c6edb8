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
from drgn import Object, Program, cast, offsetof, sizeof
from drgn.helpers.linux.fs import fget
from drgn.helpers.linux.pid import find_task

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


FDS = Run("fds", ("fds", "--json"), key=("pid", "tid", "fd"))
SS = Run("ss -tuxap", ("ss", "-tuxap", "--json", "--output", "+sk"), key=("sk",))
#: The client and the server of the workload tcp_echo, as its account says.
CLIENT, SERVER = (180, 3), (179, 4)


def file_of(bed: Bed, end: tuple[int, int]) -> Object:
    """A ``struct file *``."""
    return fget(find_task(bed.prog, end[0]), end[1])


def socket_of(bed: Bed, end: tuple[int, int]) -> Object:
    """A ``struct socket *``."""
    return cast("struct socket *", file_of(bed, end).private_data)


def put(member: Object, value: int) -> str:
    """Another value for a pointer."""
    return f"{member.address_:x}={value.to_bytes(8, 'little').hex()}"


def test_a_file_that_leads_to_the_socket_of_another(bed: Bed) -> None:
    other = socket_of(bed, SERVER).value_()
    spec = put(file_of(bed, CLIENT).private_data, other)
    words = f"pid 180 fd 3: struct socket at {other:#x} cannot be read: it belongs to the struct f"
    for run in (FDS, SS):
        told(bed.run(run, spec), 1, words)


@pytest.mark.parametrize("what", ["another", "null"])
def test_a_socket_that_leads_to_another_sock(bed: Bed, what: str) -> None:
    other = socket_of(bed, SERVER).sk.value_() if what == "another" else 0
    spec = put(socket_of(bed, CLIENT).sk, other)
    told(bed.run(FDS, spec), 1, "pid 180 fd 3: struct socket at .*: (its|it has no) struct sock")
    words = "sockets of two files lead to it" if other else "it has no struct sock"
    told(bed.run(SS, spec), 1, words)


@pytest.mark.parametrize("op", [0, 8, 0xFFFF_FEFE_DEAD_0000])
def test_a_file_without_operations(bed: Bed, op: int) -> None:
    spec = put(file_of(bed, CLIENT).f_op, op)
    for run in (FDS, SS):
        words = f"pid 180 fd 3: struct file at .*: its struct file_operations at {op:#x}"
        told(bed.run(run, spec), 1, words)


@pytest.mark.parametrize("fill", ["copy", "00", "6b"])
def test_a_sock_that_is_another(bed: Bed, fill: str) -> None:
    """One that is overwritten keeps nothing of the socket that it belongs to."""
    sk, other = (socket_of(bed, end).sk.value_() for end in (CLIENT, SERVER))
    size = sizeof(bed.prog.type("struct tcp_sock"))
    new = f"@{other:x}+{size}" if fill == "copy" else f"{fill}*{size}"
    told(bed.run(SS, f"{sk:x}={new}"), 1, f"struct sock at {sk:#x} cannot be read: it belongs to")
    told(bed.run(FDS, f"{sk:x}={new}"), 1, "pid 180 fd 3: struct socket at .*: its struct sock")


@pytest.mark.parametrize("file", ["tcp", "unix"])
def test_an_inode_of_no_socket(bed: Bed, file: str) -> None:
    """procfs finds sockets through hash tables, and their inodes through them."""
    end = CLIENT if file == "tcp" else (183, 3)
    socket = socket_of(bed, end).value_()
    offset = offsetof(bed.prog.type("struct socket_alloc"), "socket")
    size = sizeof(bed.prog.type("struct socket_alloc"))
    done = bed.run(Run("procfs", ("procfs", f"net/{file}")), f"{socket - offset:x}=00*{size}")
    told(done, 1, f"struct socket at {socket:#x} cannot be read: it belongs to the struct sock")
