# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types, constants and variables from BTF against those from DWARF, of the same kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from drgn import Program, Type, TypeKind, sizeof
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.percpu import per_cpu

from drgn_sockets import declare
from drgn_sockets.target.btf import Btf, BtfKind
from drgn_sockets.target.btf_source import own_btf
from drgn_sockets.target.declarations import DECLARATIONS, parse
from vm import cache

from .conftest import BOTH, KERNELS, opened, recorded
from .machine import ROOT, Core

# Beside what this package names: what drgn's helpers look at, and what has bit-fields, flexible
# arrays, unions in unions, function pointers and enums of 64 bits.
MORE = re.findall(
    r"\w+",
    """
    task_struct signal_struct files_struct fdtable file dentry inode super_block mount vfsmount
    net sk_buff sk_buff_head page folio slab module mm_struct vm_area_struct maple_tree xarray idr
    cred user_namespace pid_namespace pid upid nsproxy cgroup cgroup_root css_set kernfs_node
    device class gendisk block_device request_queue bio irq_desc timer_list hrtimer rq cfs_rq
    sched_entity zone pglist_data kmem_cache printk_ringbuffer printk_info bpf_prog bpf_map btf
    socket proto proto_ops inet_sock tcp_sock udp_sock raw_sock unix_sock netlink_sock packet_sock
    inet6_skb_parm ipv6_pinfo inet_timewait_sock tcp_timewait_sock request_sock tcp_request_sock
    inet_hashinfo inet_bind_bucket tcp_congestion_ops net_device neighbour rtable dst_entry
    fib_info pipe_inode_info eventpoll epitem eventfd_ctx timerfd_ctx uts_namespace ipc_namespace
    perf_event perf_event_attr io_ring_ctx
    """,
)

# Before Linux 6.0, BTF does not tell whether an enum is signed, and has 32 bits of values.
AMBIGUOUS = {"netdev_tx", "blk_default_limits", "rt_class_t"}
# Different enums of the same name.
TWICE = {"energy_perf_value_index"}


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    return str(request.param)


@pytest.fixture
def cores(kernel: str) -> tuple[Core, Core]:
    """Each kernel with types from DWARF, and from BTF; DWARF is not downloaded for this."""
    if kernel not in BOTH:
        source = recorded(kernel).source
        if not (cache.root() / "kernels" / f"{source.id}-debug").is_dir():
            pytest.skip(f"no vmlinux of {kernel} in the cache")
    return opened(kernel, "elf", "dwarf"), opened(kernel, "elf", "btf")


@pytest.fixture
def pair(cores: tuple[Core, Core]) -> tuple[Program, Program]:
    """The programs of both."""
    return cores[0].prog, cores[1].prog


def ours() -> Iterator[str]:
    """Structures that the package names."""
    for path in (ROOT / "drgn_sockets").rglob("*.py"):
        yield from re.findall(r"\bstruct ([a-z]\w+)", path.read_text())


def describe(type_: Type) -> str:
    """A type's name, or of one without a name what is in it."""
    if type_.kind == TypeKind.POINTER:
        return describe(type_.type) + " *"
    if type_.kind == TypeKind.ARRAY:
        # BTF does not tell [] from [0], nor [3][2] from [6].
        length = type_.length or 0
        while type_.type.kind == TypeKind.ARRAY:
            type_ = type_.type
            length *= type_.length or 0
        return f"{describe(type_.type)} [{length}]"
    if type_.kind == TypeKind.FUNCTION:
        parameters = ", ".join(describe(p.type) for p in type_.parameters)
        return f"{describe(type_.type)} ({parameters}{', ...' if type_.is_variadic else ''})"
    if type_.kind in (TypeKind.STRUCT, TypeKind.UNION) and type_.tag is None:
        return f"{type_.kind.name} {layout(type_)}"
    if type_.kind == TypeKind.ENUM and type_.tag is None:
        return f"enum {constants(type_)}"
    name: str = type_.type_name()
    return name


def constants(type_: Type) -> list[tuple[str, int]]:
    return [(e.name, e.value) for e in type_.enumerators or ()]


def layout(type_: Type) -> tuple[int | None, list[tuple[object, ...]]]:
    """Size, and for each member name, place, width and type."""
    members: list[tuple[object, ...]] = [
        (m.name, m.bit_offset, m.bit_field_size, describe(m.type)) for m in type_.members or ()
    ]
    return type_.size if type_.is_complete() else None, members


def types_of(prog: Program, *kinds: BtfKind) -> Iterator[str]:
    btf = Btf(own_btf(prog))
    for type_id in range(1, btf.end_id):
        name = btf.name(type_id)
        if name and btf.kind(type_id) in kinds:
            yield name


def test_structures(pair: tuple[Program, Program]) -> None:
    dwarf, btf = pair
    compared = members = bit_fields = 0
    for name in sorted({*ours(), *MORE}):
        try:
            expected = dwarf.type(f"struct {name}")
        except LookupError:
            continue
        if expected.is_complete():
            assert layout(btf.type(f"struct {name}")) == layout(expected), name
            compared += 1
            members += len(expected.members)
            bit_fields += sum(1 for m in expected.members if m.bit_field_size)
    assert compared > 100 and members > 2500 and bit_fields > 100


def test_every_enum(pair: tuple[Program, Program]) -> None:
    dwarf, btf = pair
    names = set(types_of(btf, BtfKind.ENUM, BtfKind.ENUM64)) - TWICE
    old = not any(True for _ in types_of(btf, BtfKind.ENUM64))
    compared = 0
    for name in names:
        try:
            expected = dwarf.type(f"enum {name}")
        except LookupError:
            continue
        found = btf.type(f"enum {name}")
        if expected.is_complete() and not (old and (found.type.size == 8 or name in AMBIGUOUS)):
            assert constants(found) == constants(expected), name
            assert (found.type.size, found.type.is_signed) == (
                expected.type.size,
                expected.type.is_signed,
            ), name
            compared += 1
    assert compared > 800


def test_every_typedef(pair: tuple[Program, Program]) -> None:
    dwarf, btf = pair
    compared = 0
    # What is not the same has an array of arrays, which pahole made one array of.
    for name in set(types_of(btf, BtfKind.TYPEDEF)) - {"HUF_ReadDTableX2_Workspace"}:
        try:
            expected = dwarf.type(name)
        except LookupError:
            continue
        assert describe(btf.type(name).type) == describe(expected.type), name
        compared += 1
    assert compared > 1500


def same_variable(dwarf: Program, btf: Program, name: str, strict: bool) -> bool:
    try:
        expected = dwarf.variable(name)
    except LookupError:
        return False
    if expected.absent_ or len(dwarf.symbols(name)) > 1:
        # Of two, DWARF has either.
        return False
    found = btf.variable(name)
    assert found.address_ == expected.address_, name
    wanted, type_ = expected.type_, found.type_
    if not strict:
        wanted, type_ = wanted.unqualified(), type_.unqualified()
        if type_.kind == TypeKind.ARRAY and type_.length is None:
            wanted, type_ = wanted.type.unqualified(), type_.type.unqualified()
        elif type_.kind == TypeKind.ARRAY and type_.length != wanted.length:
            # It ends with zeros.
            assert not any(expected.to_bytes_()[sizeof(type_) :]), name
            wanted, type_ = wanted.type.unqualified(), type_.type.unqualified()
    # pg_data_t is struct pglist_data, and was used for both.
    assert describe(type_).replace("struct pglist_data", "pg_data_t") == describe(wanted).replace(
        "struct pglist_data", "pg_data_t"
    ), name
    return True


def test_every_variable_of_btf(pair: tuple[Program, Program]) -> None:
    """Which are those of each processor."""
    dwarf, btf = pair
    names = list(types_of(btf, BtfKind.VAR))
    compared = sum(same_variable(dwarf, btf, name, strict=True) for name in names)
    # pahole of Debian 11 leaves them out.
    assert compared > 300 or not names


def test_every_declaration(pair: tuple[Program, Program]) -> None:
    names = {declared.name for declared in parse(DECLARATIONS)}
    assert sum(same_variable(*pair, name, strict=False) for name in names) > 130


def test_per_cpu(pair: tuple[Program, Program]) -> None:
    for cpu in for_each_possible_cpu(pair[0]):
        for name, member in (("runqueues", "cpu"), ("hrtimer_bases", "cpu")):
            values = [per_cpu(prog[name], cpu).member_(member).value_() for prog in pair]
            assert values == [cpu, cpu]


@pytest.mark.kernels(*KERNELS)
def test_no_declaration_is_of_what_no_kernel_has() -> None:
    programs = [opened(kernel, "elf", "btf").prog for kernel in KERNELS]
    for declared in parse(DECLARATIONS):
        assert any(declared.name in prog for prog in programs), declared.name


def test_a_variable_of_unknown_type(kernel: str) -> None:
    prog = opened(kernel, "elf", "btf").prog
    for name in ("panic_timeout", "console_printk"):
        assert prog.symbol(name)
        assert name not in prog
        with pytest.raises(LookupError, match=rf"the type of {name} is not known: .*declare"):
            prog[name]
    with pytest.raises(LookupError, match=r"could not find 'no_such_variable'$"):
        prog["no_such_variable"]
    declare(prog, "int console_printk[4];")
    assert prog["console_printk"].address_ == prog.symbol("console_printk").address
    # CONSOLE_LOGLEVEL_MIN.
    assert prog["console_printk"][2].value_() == 1
    for text in ("console_printk", "int f(void);", "int a = 1;"):
        with pytest.raises(ValueError, match="not a declaration"):
            declare(prog, text)


# Module: some of the structures that it alone has.
MODULES = {
    "net/vmw_vsock/vsock": ("vsock_sock", "vsock_transport"),
    "net/sctp/sctp": ("sctp_sock", "sctp_association", "sctp_endpoint", "sctp_transport"),
    "net/tipc/tipc": ("tipc_sock", "tipc_net", "tipc_node", "tipc_link"),
    "net/rds/rds": ("rds_sock", "rds_connection", "rds_message"),
    "drivers/net/tun": ("tun_struct", "tun_file"),
}


def test_types_of_modules(cores: tuple[Core, Core]) -> None:
    btf = cores[1].prog
    if "btf_modules" not in btf:
        with pytest.raises(LookupError):
            btf.type("struct vsock_sock")
        pytest.skip("modules of this kernel have no BTF")
    tree = cores[0].vmlinux.parents[1]
    files = [p for m in MODULES for p in tree.glob(f"lib/modules/*/kernel/{m}.ko*")]
    assert len(files) == len(MODULES)
    # A program of its own: modules may have variables of the names of others.
    dwarf = Core(cores[0].recorded, "elf", "dwarf").prog
    dwarf.load_debug_info(files)
    for name in (name for names in MODULES.values() for name in names):
        assert layout(btf.type(f"struct {name}")) == layout(dwarf.type(f"struct {name}")), name
    # A base's type is the same where a module names it.
    sk = btf.type("struct vsock_sock").member("sk").type
    assert layout(sk) == layout(dwarf.type("struct sock"))
    # What is in no BTF at all.
    with pytest.raises(LookupError, match="could not find 'struct no_such_thing'"):
        btf.type("struct no_such_thing")
