# SPDX-License-Identifier: LGPL-2.1-or-later
"""BPF links: kernel/bpf/syscall.c, and where each type of link is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple

from drgn import FaultError, Object, Program, container_of, offsetof

from drgn_sockets.kernel.cgroup import cgroup_id, cgroup_path
from drgn_sockets.kernel.dcache import Namer
from drgn_sockets.kernel.enums import enum_names
from drgn_sockets.kernel.memory import read_pointers, read_string
from drgn_sockets.kernel.net import net_ino
from drgn_sockets.kernel.structs import Int, OptInt, Struct, find_place
from drgn_sockets.kernel.symbols import symbol_name
from drgn_sockets.kernel.vsprintf import shows_addresses
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.records.kinds.bpf_map import map_id
from drgn_sockets.records.kinds.bpf_prog import BpfProg, BpfProgAux
from drgn_sockets.text import escape

_NAME_MAX = 512
# kernel/trace/bpf_trace.c: MAX_KPROBE_MULTI_CNT, MAX_UPROBE_MULTI_CNT
_MAX_PROBES = 1 << 20
# include/uapi/linux/bpf.h: BPF_F_KPROBE_MULTI_RETURN, BPF_F_UPROBE_MULTI_RETURN
_BPF_F_MULTI_RETURN = 1


class Link(Struct):
    """``struct bpf_link``."""

    C_TYPE = "struct bpf_link"

    id = Int("id", help="ID of the link")
    type = Int("type", help="BPF_LINK_TYPE_*")
    ops = Int("ops", help="const struct bpf_link_ops *")
    prog = Int("prog", help="struct bpf_prog *")
    # Linux kernel commit b725441f02c2 ("bpf: Add attach_type field to bpf_link") (in v6.17)
    # moved attach_type here from the structures of some types of links. The same version added
    # flags, which the names of types then depend on, and the lines with cookies.
    flags = OptInt("flags", help="BPF_F_* flags of some types")
    attach_type = OptInt("attach_type", help="BPF_* (enum bpf_attach_type)")


class _Ops(Struct):
    C_TYPE = "struct bpf_link_ops"

    show_fdinfo = Int("show_fdinfo")


class Line(NamedTuple):
    """A line of fdinfo that only one type of link has."""

    #: The text before the colon; empty for a line without this form.
    name: str
    value: bytes


class LinkRecord(NamedTuple):
    """A BPF link with its program."""

    link: Link
    type: str
    #: The tag and the ID of the program, ``None`` if the link has none.
    prog: tuple[bytes, int] | None
    lines: Sequence[Line]


def link_type(prog: Program, link: Link) -> str:
    """The type of a link, as fdinfo writes it."""
    name = enum_names(prog, "bpf_link_type", "BPF_LINK_TYPE_").get(link.type)
    if name is None:
        return f"<{link.type}>"
    # BPF_LINK_TYPE() in include/linux/bpf_types.h
    name = {"perf_event": "perf", "unspec": "<invalid>"}.get(name, name)
    if name == "kprobe_multi" and link.flags is not None:
        return "kretprobe_multi" if link.flags == _BPF_F_MULTI_RETURN else name
    if name == "uprobe_multi" and link.flags is not None:
        return "uretprobe_multi" if link.flags & _BPF_F_MULTI_RETURN else name
    return name


def _line(name: str, value: int) -> Line:
    return Line(name, b"%d" % value)


def _text(prog: Program, name: str, pointer: Object) -> Line:
    text = read_string(prog, pointer.value_(), _NAME_MAX)
    if text is None:
        raise LookupError(f"{name} cannot be read")
    return Line(name, text)


class _Lines:
    """The fdinfo lines of a link; there is one method for each type of link, see ``_LINES``."""

    def __init__(self, prog: Program, link: Link, namer: Namer) -> None:
        self.prog = prog
        self.link = link
        self.namer = namer

    def _as(self, name: str) -> Object:
        # struct bpf_link is at the start of all these structures but bpf_uprobe_multi_link.
        return Object(self.prog, f"struct {name} *", self.link.address)

    def _attach_type(self, link: Object, name: str) -> int:
        """The attach type, on older kernels from the member *name* of the link's own structure."""
        if self.link.attach_type is not None:
            return self.link.attach_type
        return int(link.member_(name).value_())

    def _ifindex(self, link: Object) -> Line:
        dev = link.dev.read_()
        return _line("ifindex", dev.ifindex.value_() if dev else 0)

    def tracing(self) -> Iterator[Line]:
        link = self._as("bpf_tracing_link")
        yield _line("attach_type", self._attach_type(link, "attach_type"))
        # Linux kernel commit e859e429511a ("bpf: Show target_{obj,btf}_id in tracing link
        # fdinfo") (in v6.5) changed no type. Commit cb8edce28073 ("bpf: Support O_PATH FDs in
        # BPF_OBJ_PIN and BPF_OBJ_GET commands") of the same version added path_fd.
        if find_place(self.prog, self.prog.type("union bpf_attr"), "path_fd") is None:
            return
        key = link.trampoline.key.value_()
        yield _line("target_obj_id", key >> 32)
        yield _line("target_btf_id", key & 0x7FFFFFFF)
        if self.link.attach_type is not None:
            tramp = link.link
            # Newer kernels keep the cookie in a nested structure, struct bpf_tramp_node.
            node = tramp.node if tramp.type_.has_member("node") else tramp
            yield _line("cookie", node.cookie.value_())

    def raw_tracepoint(self) -> Iterator[Line]:
        link = self._as("bpf_raw_tp_link")
        yield _text(self.prog, "tp_name", link.btp.tp.name)
        if self.link.attach_type is not None:
            yield _line("cookie", link.cookie.value_())

    def cgroup(self) -> Iterator[Line]:
        link = self._as("bpf_cgroup_link")
        cgroup = link.cgroup.value_()
        yield _line("cgroup_id", cgroup_id(self.prog, cgroup) if cgroup else 0)
        yield _line("attach_type", self._attach_type(link, "type"))

    def netns(self) -> Iterator[Line]:
        link = self._as("bpf_netns_link")
        net = link.net.value_()
        yield _line("netns_ino", net_ino(self.prog, net) if net else 0)
        yield _line("attach_type", self._attach_type(link, "type"))

    def xdp(self) -> Iterator[Line]:
        yield self._ifindex(self._as("bpf_xdp_link"))

    def tcx(self) -> Iterator[Line]:
        yield from self._two_sided("tcx_link", "location", ("ingress", "egress"), "BPF_TCX_INGRESS")

    def netkit(self) -> Iterator[Line]:
        sides = ("primary", "peer")
        yield from self._two_sided("netkit_link", "location", sides, "BPF_NETKIT_PRIMARY")

    def _two_sided(
        self, name: str, member: str, sides: tuple[str, str], first: str
    ) -> Iterator[Line]:
        link = self._as(name)
        yield self._ifindex(link)
        attach_type = self._attach_type(link, member)
        side = sides[attach_type != self.prog.constant(first).value_()]
        yield Line("attach_type", b"%d (%b)" % (attach_type, side.encode()))

    def netfilter(self) -> Iterator[Line]:
        ops = self._as("bpf_nf_link").hook_ops
        yield Line(
            "pf",
            b"%d\thooknum:\t%d\tprio:\t%d"
            % (ops.pf.value_(), ops.hooknum.value_(), ops.priority.value_()),
        )

    def struct_ops(self) -> Iterator[Line]:
        of = self._as("bpf_struct_ops_link").map.value_()
        if of:
            yield _line("map_id", map_id(self.prog, of))

    def sockmap(self) -> Iterator[Line]:
        link = self._as("sockmap_link")
        of = link.map.value_()
        yield _line("map_id", map_id(self.prog, of) if of else 0)
        yield _line("attach_type", self._attach_type(link, "attach_type"))

    def perf(self) -> Iterator[Line]:
        event = Object(
            self.prog,
            "struct perf_event *",
            self._as("bpf_perf_link").perf_file.private_data.value_(),
        )
        types = enum_names(self.prog, "bpf_prog_type", "BPF_PROG_TYPE_")
        type_ = types.get(event.prog.type.value_())
        cookie = _line("cookie", event.bpf_cookie.value_())
        if type_ == "perf_event":
            yield _line("type", event.attr.type.value_())
            yield _line("config", event.attr.config.value_())
            yield Line("event_type", b"event")
            yield cookie
        elif type_ == "tracepoint":
            call = event.tp_event
            of_tracepoint = self.prog.constant("TRACE_EVENT_FL_TRACEPOINT").value_()
            named = call.tp.name if call.flags.value_() & of_tracepoint else call.name
            yield _text(self.prog, "tp_name", named)
            yield Line("event_type", b"tracepoint")
            yield cookie
        elif type_ == "kprobe":
            yield from self._kprobe(event)
            yield cookie

    def _kprobe(self, event: Object) -> Iterator[Line]:
        """``bpf_perf_link_fdinfo_kprobe()``"""
        flags = event.tp_event.flags.value_()
        if not flags & self.prog.constant("TRACE_EVENT_FL_KPROBE").value_():
            raise LookupError("links to uprobes are not known")
        parent = container_of(event.tp_event, "struct trace_probe_event", "call")
        probe = container_of(parent.probes.next, "struct trace_probe", "list")
        kprobe = container_of(probe, "struct trace_kprobe", "tp")
        returns = bool(kprobe.rp.handler)
        missed = kprobe.rp.kp.nmissed.value_() + (kprobe.rp.nmissed.value_() if returns else 0)
        yield _text(self.prog, "name", kprobe.symbol)
        yield Line("offset", b"%#x" % kprobe.rp.kp.offset.value_())
        yield _line("missed", missed)
        # bpf_get_kprobe_info() gives 0 to readers who may not see kernel addresses.
        address = kprobe.rp.kp.addr.value_() if shows_addresses(self.prog) else 0
        yield Line("addr", b"%#x" % address)
        yield Line("event_type", b"kretprobe" if returns else b"kprobe")

    def kprobe_multi(self) -> Iterator[Line]:
        link = self._as("bpf_kprobe_multi_link")
        count = link.cnt.value_()
        yield _line("kprobe_cnt", count)
        yield _line("missed", link.fp.nmissed.value_())
        yield Line("", b"cookie\t func")
        addresses = self._words(link.addrs, count)
        cookies = self._words(link.cookies, count) if link.cookies else (0,) * count
        for cookie, address in zip(cookies, addresses):
            yield Line("", b"%d\t %b" % (cookie, _symbol_text(self.prog, address)))

    def _words(self, array: Object, count: int) -> Sequence[int]:
        if count > _MAX_PROBES:
            raise FaultError("more probes than there can be", self.link.address)
        return read_pointers(self.prog, array.value_(), count)

    def uprobe_multi(self) -> Iterator[Line]:
        type_ = self.prog.type("struct bpf_uprobe_multi_link")
        address = self.link.address - offsetof(type_, "link")
        link = Object(self.prog, self.prog.pointer_type(type_), address)
        count = link.cnt.value_()
        if count > _MAX_PROBES:
            raise FaultError("more probes than there can be", address)
        path = self.namer.d_path(link.path.mnt.value_(), link.path.dentry.value_())
        task = link.task.read_()
        yield _line("uprobe_cnt", count)
        yield _line("pid", task.pid.value_() if task else 0)
        yield Line("path", path)
        yield Line("", b"cookie\t offset\t ref_ctr_offset")
        for i in range(count):
            probe = link.uprobes[i]
            offset, counter = probe.offset.value_(), probe.ref_ctr_offset.value_()
            yield Line("", b"%d\t %#x\t %#x" % (probe.cookie.value_(), offset, counter))

    def iter(self) -> Iterator[Line]:
        link = self._as("bpf_iter_link")
        reg = link.tinfo.reg_info
        yield _text(self.prog, "target_name", reg.target)
        show = symbol_name(self.prog, reg.show_fdinfo.value_()) if reg.show_fdinfo else None
        aux = link.aux
        if show == "bpf_iter_map_show_fdinfo":
            yield _line("map_id", map_id(self.prog, aux.map.value_()))
        elif show == "bpf_iter_cgroup_show_fdinfo":
            path = cgroup_path(self.prog, aux.cgroup.start.value_())
            yield Line("cgroup_path", path or b"")
            orders = enum_names(self.prog, "bpf_cgroup_iter_order", "BPF_CGROUP_ITER_")
            order = orders.get(aux.cgroup.order.value_(), "self_only")
            # The kernel writes a space here, where it writes a tab in other lines.
            yield Line("", b"order: " + order.encode())
        elif show == "bpf_iter_task_show_fdinfo":
            types = enum_names(self.prog, "bpf_iter_task_type", "BPF_TASK_ITER_")
            type_ = types.get(aux.task.type.value_(), "")
            # iter_task_type_names[] calls BPF_TASK_ITER_TGID "PID".
            yield Line("task_type", b"PID" if type_ == "tgid" else type_.upper().encode())
            if type_ in ("tid", "tgid"):
                yield _line("tid" if type_ == "tid" else "pid", aux.task.pid.value_())
        elif show == "bpf_iter_kmem_cache_show_fdinfo":
            yield Line("", b"kmem_cache iter")
        elif show == "bpf_iter_dmabuf_show_fdinfo":
            yield Line("", b"dmabuf iter")
        elif show is not None:
            raise LookupError(f"what {show or 'a function without name'} shows is not known")


_LINES: dict[str, Callable[[_Lines], Iterator[Line]]] = {
    "bpf_tracing_link_show_fdinfo": _Lines.tracing,
    "bpf_raw_tp_link_show_fdinfo": _Lines.raw_tracepoint,
    "bpf_cgroup_link_show_fdinfo": _Lines.cgroup,
    "bpf_netns_link_show_fdinfo": _Lines.netns,
    "bpf_xdp_link_show_fdinfo": _Lines.xdp,
    "tcx_link_fdinfo": _Lines.tcx,
    "netkit_link_fdinfo": _Lines.netkit,
    "bpf_nf_link_show_info": _Lines.netfilter,
    "bpf_struct_ops_map_link_show_fdinfo": _Lines.struct_ops,
    "sock_map_link_show_fdinfo": _Lines.sockmap,
    "bpf_perf_link_show_fdinfo": _Lines.perf,
    "bpf_kprobe_multi_show_fdinfo": _Lines.kprobe_multi,
    "bpf_uprobe_multi_show_fdinfo": _Lines.uprobe_multi,
    "bpf_iter_link_show_fdinfo": _Lines.iter,
}


def _symbol_text(prog: Program, address: int) -> bytes:
    """``%pS``"""
    try:
        symbol = prog.symbol(address)
    except LookupError:
        return b"0x%x" % address
    offset = address - symbol.address
    return f"{symbol.name}+{offset:#x}/{symbol.size:#x}".encode()


def _lines(prog: Program, link: Link, namer: Namer) -> list[Line]:
    show = _Ops.layout(prog).read(link.ops).show_fdinfo
    if not show:
        return []
    name = symbol_name(prog, show)
    if name not in _LINES:
        raise LookupError(f"what {name or 'a function without name'} shows is not known")
    return list(_LINES[name](_Lines(prog, link, namer)))


class BpfLink(Kind):
    """A BPF link."""

    name = "bpf_link"
    # Linux kernel commit 1adddc97aa44 ("bpf: support epoll from bpf struct_ops links.") (in
    # v6.11) added bpf_link_fops_poll.
    fops = ("bpf_link_fops", "bpf_link_fops_poll")
    fields = (
        Field("id", "ID of a BPF link", lambda it: it.link.id),
        Field("type", "type of a BPF link", lambda it: it.type),
        Field("type.raw", "the same as a number", lambda it: it.link.type, False),
        Field("prog_id", "ID of its BPF program", lambda it: it.prog and it.prog[1]),
        Field("prog_tag", "tag of its program", lambda it: it.prog and it.prog[0].hex(), False),
        Field(
            "target",
            "what a BPF link is attached to, by its type",
            lambda it: (
                ",".join(
                    f"{line.name}={escape(line.value)}" if line.name else escape(line.value)
                    for line in it.lines
                )
                or None
            ),
        ),
    )

    def read(self, file: FileRecord) -> LinkRecord:
        prog = file.prog
        link = Link.layout(prog).read(file.private_data)
        of = None
        if link.prog:
            bpf = BpfProg.layout(prog).read(link.prog)
            of = bpf.tag, BpfProgAux.layout(prog).read(bpf.aux).id
        return LinkRecord(link, link_type(prog, link), of, _lines(prog, link, file.namer))

    def fdinfo(self, file: FileRecord, it: LinkRecord) -> Iterator[bytes]:
        """``bpf_link_show_fdinfo()``"""
        yield b"link_type:\t%b\n" % it.type.encode()
        yield b"link_id:\t%d\n" % it.link.id
        if it.prog is not None:
            yield b"prog_tag:\t%b\n" % it.prog[0].hex().encode()
            yield b"prog_id:\t%d\n" % it.prog[1]
        for line in it.lines:
            yield (line.name.encode() + b":\t" if line.name else b"") + line.value + b"\n"
