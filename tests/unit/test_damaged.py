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
from drgn.helpers.linux.fs import fget, for_each_file
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
    told(done, 2, r"^drgn-sockets: .* (is damaged: .*|has no )VMCOREINFO.*\n$")


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
    told(done, 2, "tick_nsec at 0x[0-9a-f]+ cannot be read: -?[0-9]+ ns is no length of a jiffy")


@pytest.mark.parametrize("name", ["tick_nsec", "jiffies"])
def test_a_clock_that_is_missing(bed: Bed, name: str) -> None:
    page = bed.prog.symbol(name).address // 4096 * 4096
    told(
        bed.run(Run("tcp", ("tcp", "180:3")), f"{page:x}=missing"),
        2,
        f"{name} at 0x[0-9a-f]+ cannot be read",
    )


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


def test_a_name_of_a_unix_socket_that_is_none(bed: Bed) -> None:
    sk = cast("struct unix_sock *", socket_of(bed, (183, 3)).sk)
    peer = sk.addr if sk.addr else sk.peer.read_()
    addr = (sk.addr if sk.addr else cast("struct unix_sock *", peer).addr).value_()
    told(bed.run(SS, f"{addr:x}=00*16"), 1, f"struct unix_address at {addr:#x} .*: 0 is no length")


def test_a_file_and_its_dentry_have_one_inode(bed: Bed) -> None:
    null, log = (file_of(bed, (179, fd)) for fd in (0, 1))
    spec = put(null.f_inode, log.f_inode.value_())
    told(bed.run(FDS, spec), 1, "pid 179 fd 0: struct dentry at .* has another inode")


def test_a_mount_without_root(bed: Bed) -> None:
    mnt = file_of(bed, (179, 1)).f_path.mnt
    told(bed.run(FDS, put(mnt.mnt_root, 0)), 1, "struct mount at .* cannot be read: it has no root")


def test_no_processors(bed: Bed) -> None:
    mask = bed.prog["__cpu_possible_mask"]
    done = bed.run(FDS, f"{mask.address_:x}=00*{sizeof(mask)}")
    told(done, 1, "__cpu_possible_mask at .* cannot be read: it is empty")


def test_a_cgroup_whose_way_to_the_root_is_cut(bed: Bed) -> None:
    ops = bed.prog.symbol("socket_file_ops").address
    files = [file for _, file in for_each_file(find_task(bed.prog, 474))]
    sockets = [f.private_data for f in files if f.f_op.value_() == ops]
    groups = [cast("struct socket *", socket).sk.sk_cgrp_data.cgroup for socket in sockets]
    node = next(group.kn for group in groups if group.kn.parent)
    told(
        bed.run(Run("ss", ("ss", "-ta", "--cgroup")), put(node.parent, 0)),
        1,
        "struct kernfs_node at .*: it has no parent, and is not the root",
    )


def test_mappings_that_are_not_in_their_tree(bed: Bed) -> None:
    """``map_count`` of the ``struct mm_struct`` says how many there are."""
    mm = find_task(bed.prog, 180).mm
    spec = f"{mm.map_count.address_of_().value_():x}=ff000000"
    done = bed.run(Run("fds --lsof", ("fds", "--lsof", "180")), spec)
    told(done, 1, f"tree of struct vm_area_struct at {mm.value_():#x} .*: it lacks [0-9]+ of 255")
