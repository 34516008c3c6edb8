# SPDX-License-Identifier: LGPL-2.1-or-later
"""Packet sockets."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import NamedTuple

from drgn import Program

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.lists import for_each_linked
from drgn_sockets.kernel.lost import Lost, unbroken
from drgn_sockets.kernel.memory import page_shift, read_pointers
from drgn_sockets.kernel.net import netdev_name_by_index
from drgn_sockets.kernel.sk_filter import Instruction, filter_bytes, instructions
from drgn_sockets.kernel.sock import Sock, SockCommon, for_each_packet
from drgn_sockets.kernel.structs import BigEndian, Bytes, Int, OptInt, Struct
from drgn_sockets.kernel.symbols import symbol_address
from drgn_sockets.program import once_per_program
from drgn_sockets.records.columns import Column
from drgn_sockets.records.names import lsof_type_name, short_type_name
from drgn_sockets.records.socket import Endpoint, Family, LsofSocket, SocketRecord

ETH_P_ALL = 3
# ETH_P_* (include/uapi/linux/if_ether.h), by the names in ss.
PROTOCOLS = {
    0x0060: "loop",
    0x0200: "pup",
    0x0201: "pupat",
    0x0800: "ip",
    0x0805: "x25",
    0x0806: "arp",
    0x08FF: "bpq",
    0x0A00: "ieeepup",
    0x0A01: "ieeepupat",
    0x6000: "dec",
    0x6001: "dna_dl",
    0x6002: "dna_rc",
    0x6003: "dna_rt",
    0x6004: "lat",
    0x6005: "diag",
    0x6006: "cust",
    0x6007: "sca",
    0x8035: "rarp",
    0x809B: "atalk",
    0x80F3: "aarp",
    0x8137: "ipx",
    0x86DD: "ipv6",
    0x8863: "ppp_disc",
    0x8864: "ppp_ses",
    0x884C: "atmmpoa",
    0x8884: "atmfate",
    0x0001: "802_3",
    0x0002: "ax25",
    0x0003: "all",
    0x0004: "802_2",
    0x0005: "snap",
    0x0006: "ddcmp",
    0x0007: "wan_ppp",
    0x0008: "ppp_mp",
    0x0009: "localtalk",
    0x000C: "can",
    0x0010: "ppptalk",
    0x0011: "tr_802_2",
    0x0015: "mobitex",
    0x0016: "control",
    0x0017: "irda",
    0x0018: "econet",
    0x88CA: "tipc",
    0x8892: "profinet",
    0x88A2: "aoe",
    0x88A4: "ethercat",
    0x8100: "802.1Q",
    0x88A8: "802.1ad",
    0x8847: "mpls_uc",
    0x8848: "mpls_mc",
    0x6558: "teb",
    0x88CC: "LLDP",
}

#: Flags by the names in ss, each with its constant in enum packet_sock_flags. Those that sock_diag
#: tells come first, in the order of sock_diag.
FLAGS = {
    "running": "PACKET_SOCK_RUNNING",
    "auxdata": "PACKET_SOCK_AUXDATA",
    "origdev": "PACKET_SOCK_ORIGDEV",
    "vnethdr": "PACKET_SOCK_HAS_VNET_HDR",
    "loss": "PACKET_SOCK_TP_LOSS",
    "tx_has_off": "PACKET_SOCK_TX_HAS_OFF",
    "pressure": "PACKET_SOCK_PRESSURE",
    "qdisc_bypass": "PACKET_SOCK_QDISC_BYPASS",
}
#: The flags that sock_diag tells.
DIAG_FLAGS = tuple(FLAGS)[:5]
# Names of protocols in lsof.
_LSOF_PROTOCOLS = {0x3: "ALL", 0x800: "IP", 0x806: "ARP", 0x86DD: "IPV6"}
# PACKET_FANOUT_*, by the names in ss, which knows no others.
_FANOUT = ("hash", "lb", "cpu", "roll", "random", "qm")
# PACKET_MR_*
_MEMBERSHIPS = ("multicast", "promisc", "allmulti", "unicast")
_MAX_MEMBERSHIPS = 1 << 14
# PACKET_FANOUT_MAX
_MAX_MEMBERS = 1 << 16
_TPACKET_V3 = 2
_NSEC_PER_MSEC = 1_000_000


class PacketSock(Sock):
    """``struct packet_sock``."""

    C_TYPE = "struct packet_sock"

    ethertype = BigEndian("num", help="packet: protocol it is bound to, 3 for all, 0 for none")
    ifindex = Int("ifindex", help="packet: interface it is bound to, 0 for all")
    flag_bits = OptInt("flags", help="packet: PACKET_SOCK_* flags, as bits")
    # Linux kernel commit dfc39d4026fb ("net/packet: support mergeable feature of virtio") (in
    # v6.5) replaced the flag has_vnet_hdr by this.
    vnet_hdr_sz = OptInt("vnet_hdr_sz", help="packet: size of a virtio_net_hdr in front, bytes")
    ignore_outgoing = OptInt(
        "prot_hook.ignore_outgoing", help="packet: whether it hears nothing that is sent"
    )
    copy_thresh = Int("copy_thresh", help="packet: how much of what the ring truncates is queued")
    tp_version = Int("tp_version", help="packet: TPACKET_V1 (0), _V2 (1), _V3 (2)")
    tp_reserve = Int("tp_reserve", help="packet: room before the data of a frame, bytes")
    tp_hdrlen = Int("tp_hdrlen", help="packet: header of a frame, bytes")
    tp_tstamp = Int("tp_tstamp", help="packet: PACKET_TIMESTAMP, SOF_TIMESTAMPING_* flags")
    tp_packets = Int("stats.stats1.tp_packets", help="packet: packets since statistics were read")
    tp_freezes = Int(
        "stats.stats3.tp_freeze_q_cnt", help="packet: how often the ring was full since then"
    )
    # Linux kernel commit 8e8e2951e309 ("net/packet: make tp_drops atomic") (in v5.3)
    tp_drops = Int(
        *("tp_drops.counter", "stats.stats1.tp_drops"), help="packet: packets dropped since then"
    )
    mapped = Int("mapped.counter", help="packet: mappings of its rings")
    fanout_group = Int("fanout", help="packet: struct packet_fanout *")
    mclist = Int("mclist", help="packet: first struct packet_mclist *")
    rollover = Int("rollover", help="packet: struct packet_rollover *")
    sk_filter = Int("sk.sk_filter", help="packet: struct sk_filter *")
    rx_pg_vec = Int("rx_ring.pg_vec", help="packet: struct pgv *, blocks of the receive ring")
    rx_block_pages = Int("rx_ring.pg_vec_pages", help="packet: pages of a block of it")
    rx_block_nr = Int("rx_ring.pg_vec_len", help="packet: blocks of it")
    rx_frame_size = Int("rx_ring.frame_size", help="packet: size of a frame of it, bytes")
    rx_frame_max = Int("rx_ring.frame_max", help="packet: last frame of it")
    rx_head = Int("rx_ring.head", help="packet: frame of it that is filled next")
    rx_features = Int("rx_ring.prb_bdqc.feature_req_word", help="packet: TP_FT_REQ_* of TPACKET_V3")
    rx_sizeof_priv = Int(
        "rx_ring.prb_bdqc.blk_sizeof_priv", help="packet: private area of a block, bytes"
    )
    # Linux kernel commit f7460d2989fa ("net: af_packet: Use hrtimer to do the retire operation")
    # (in v6.18) changed the unit to nanoseconds.
    rx_retire_ms = OptInt(
        "rx_ring.prb_bdqc.retire_blk_tov", help="packet: when a block that is not full is given"
    )
    rx_retire_ns = OptInt("rx_ring.prb_bdqc.interval_ktime", help="packet: the same in ns")
    tx_pg_vec = Int("tx_ring.pg_vec", help="packet: struct pgv *, blocks of the send ring")
    tx_block_pages = Int("tx_ring.pg_vec_pages", help="packet: pages of a block of it")
    tx_block_nr = Int("tx_ring.pg_vec_len", help="packet: blocks of it")
    tx_frame_size = Int("tx_ring.frame_size", help="packet: size of a frame of it, bytes")
    tx_frame_max = Int("tx_ring.frame_max", help="packet: last frame of it")
    tx_head = Int("tx_ring.head", help="packet: frame of it that is sent next")
    tx_features = Int("tx_ring.prb_bdqc.feature_req_word", help="packet: see rx_features")
    tx_sizeof_priv = Int("tx_ring.prb_bdqc.blk_sizeof_priv", help="packet: see rx_sizeof_priv")
    tx_retire_ms = OptInt("tx_ring.prb_bdqc.retire_blk_tov", help="packet: see rx_retire_ms")
    tx_retire_ns = OptInt("tx_ring.prb_bdqc.interval_ktime", help="packet: see rx_retire_ns")


class _OldFlags(Struct):
    C_TYPE = "struct packet_sock"

    # Linux kernel commits ee5675ecdf7a ("net/packet: convert po->origdev to an atomic flag"),
    # fd53c297aa7b (auxdata), 164bddace2e0 (tp_loss), 50d935eafee2 (has_vnet_hdr), 61edf479818e
    # (running), 7438344660fa (tp_tx_has_off), 791a3e9f1a86 (pressure), and 105a201ebf33
    # ("net/packet: remove po->xmit") (in v6.4, and some of them in stable kernels)
    running = OptInt("running")
    auxdata = OptInt("auxdata")
    origdev = OptInt("origdev")
    vnethdr = OptInt("has_vnet_hdr")
    loss = OptInt("tp_loss")
    tx_has_off = OptInt("tp_tx_has_off")
    pressure = OptInt("pressure")
    # A function, by which packet_flags() tells the flag qdisc_bypass.
    xmit = OptInt("xmit")


class _Fanout(Struct):
    C_TYPE = "struct packet_fanout"

    id = Int("id")
    type = Int("type")
    flags = Int("flags")
    num_members = Int("num_members")
    # A flexible array, whose members lie behind the structure.
    arr = Bytes("arr")


class _Mclist(Struct):
    C_TYPE = "struct packet_mclist"

    next = Int("next")
    ifindex = Int("ifindex")
    count = Int("count")
    type = Int("type")
    alen = Int("alen")
    addr = Bytes("addr")


class Fanout(NamedTuple):
    """A group of sockets that share the packets of an interface."""

    id: int
    #: ``PACKET_FANOUT_*``
    type: int
    #: ``PACKET_FANOUT_FLAG_*``, shifted right by 8.
    flags: int
    #: ``struct sock *`` of each member.
    members: tuple[int, ...]

    @property
    def type_name(self) -> str:
        """Its type, by the name in ss."""
        return _FANOUT[self.type] if self.type < len(_FANOUT) else f"{self.type:#x}"


class Membership(NamedTuple):
    """Packets that a socket has an interface receive (``PACKET_ADD_MEMBERSHIP``)."""

    ifindex: int
    #: How often the socket asked for it.
    times: int
    #: ``PACKET_MR_*``
    type: int
    alen: int
    #: 32 bytes; the first *alen* are the address.
    address: bytes

    @property
    def type_name(self) -> str:
        """``multicast``, ``promisc``, ``allmulti``, ``unicast``."""
        return _MEMBERSHIPS[self.type] if self.type < len(_MEMBERSHIPS) else str(self.type)


class PacketRing(NamedTuple):
    """A ring that a process maps (``PACKET_RX_RING``, ``PACKET_TX_RING``)."""

    #: Bytes.
    block_size: int
    block_nr: int
    #: Bytes.
    frame_size: int
    frame_nr: int
    #: After how many ms a block that is not full is given to the process. This field and those
    #: after it are 0 unless the ring is TPACKET_V3.
    retire_ms: int
    #: Bytes.
    sizeof_priv: int
    #: ``TP_FT_REQ_*``
    features: int


class PacketRecord(SocketRecord):
    """A packet socket."""

    family_name = "packet"
    struct = PacketSock

    @functools.cached_property
    def ifname(self) -> bytes | None:
        """Name of the interface it is bound to; ``None`` if there is none."""
        sock = self.sock
        return netdev_name_by_index(self.prog, sock.net, sock.ifindex) if sock.ifindex else None

    @property
    def flag_names(self) -> list[str]:
        """Names of its flags, as in :data:`FLAGS`."""
        return packet_flags(self.prog, self.sock)

    @property
    def fanout(self) -> Fanout | None:
        """Its fanout group; ``None`` if it is in none."""
        layout = _Fanout.layout(self.prog)
        group = layout.follow(self.sock.fanout_group)
        if group is None:
            return None
        arr = group.address + layout.cls.places["arr"].offset
        members = read_pointers(self.prog, arr, min(group.num_members, _MAX_MEMBERS))
        return Fanout(group.id, group.type, group.flags, members)

    @property
    def memberships(self) -> list[Membership]:
        """
        Packets that it has interfaces receive.

        :raises FaultError: if they cannot be read
        """
        layout = _Mclist.layout(self.prog)
        items = for_each_linked(layout, self.sock.mclist, limit=_MAX_MEMBERSHIPS)
        return [
            Membership(item.ifindex, item.count, item.type, item.alen, item.addr)
            for item in unbroken(items)
        ]

    @property
    def rx_ring(self) -> PacketRing | None:
        """The ring that it receives into, ``None`` if it has none."""
        s = self.sock
        return self._ring(
            *(s.rx_pg_vec, s.rx_block_pages, s.rx_block_nr, s.rx_frame_size, s.rx_frame_max),
            *(s.rx_retire_ms, s.rx_retire_ns, s.rx_sizeof_priv, s.rx_features),
        )

    @property
    def tx_ring(self) -> PacketRing | None:
        """The ring that it sends from, ``None`` if it has none."""
        s = self.sock
        return self._ring(
            *(s.tx_pg_vec, s.tx_block_pages, s.tx_block_nr, s.tx_frame_size, s.tx_frame_max),
            *(s.tx_retire_ms, s.tx_retire_ns, s.tx_sizeof_priv, s.tx_features),
        )

    def _ring(
        self,
        pg_vec: int,
        pages: int,
        block_nr: int,
        frame_size: int,
        frame_max: int,
        retire_ms: int | None,
        retire_ns: int | None,
        sizeof_priv: int,
        features: int,
    ) -> PacketRing | None:
        if not pg_vec:
            return None
        ring = PacketRing(
            pages << page_shift(self.prog) & 0xFFFFFFFF,
            block_nr,
            frame_size,
            frame_max + 1 & 0xFFFFFFFF,
            *(0, 0, 0),
        )
        if self.sock.tp_version < _TPACKET_V3:
            # Other versions use the memory of these members for something else.
            return ring
        retire = retire_ms if retire_ms is not None else (retire_ns or 0) // _NSEC_PER_MSEC
        return ring._replace(retire_ms=retire, sizeof_priv=sizeof_priv, features=features)

    @property
    def filter(self) -> list[Instruction] | None:
        """
        Its classic BPF filter; ``None`` if it has no filter, or one in eBPF.

        :raises FaultError: if it cannot be read
        """
        raw = filter_bytes(self.prog, self.sock.sk_filter)
        return None if raw is None else instructions(self.prog, raw)

    def local_end(self) -> Endpoint:
        """Protocol and interface."""
        sock = self.sock
        number: bytes | None = b"[%d]" % sock.ethertype
        name = number
        if sock.ethertype == ETH_P_ALL:
            name = number = None
        elif sock.ethertype in PROTOCOLS:
            name = PROTOCOLS[sock.ethertype].encode("ascii")
        unknown = b"if%d" % (sock.ifindex & 0xFFFFFFFF)
        device = (self.ifname or unknown) if sock.ifindex else None
        return Endpoint(name, device, numbers=(number, device))

    @classmethod
    def netid_of(cls, family: int, type: int, protocol: int) -> str:
        return f"p_{short_type_name(type)}"

    def note(self) -> str | None:
        # It has no other end.
        return None

    def lsof(self, ino: int) -> LsofSocket | None:
        ethertype = self.sock.ethertype
        node = _LSOF_PROTOCOLS.get(ethertype, str(ethertype))
        name = f"type=SOCK_{lsof_type_name(self.type)}"
        return LsofSocket("pack", str(ino), node, name.encode())

    def match_address(self, local: bool) -> int | None:
        """The protocol that it is bound to."""
        return self.sock.ethertype if local else None

    def match_services(self, local: bool) -> set[str]:
        # The interface matches by name and by index.
        found = super().match_services(local)
        return found | {str(self.sock.ifindex)} if local else found

    @property
    def match_ifindex(self) -> int:
        return self.sock.ifindex  # type: ignore[no-any-return]

    @property
    def is_autobound(self) -> bool:
        return not self.sock.ethertype and not self.sock.ifindex

    def extended_words(self) -> str:
        sock = self.sock
        flags = [name for name in self.flag_names if name in DIAG_FLAGS]
        # As in ss, which writes a space before each flag except "running".
        text = "".join(name if name == "running" else f" {name}" for name in flags) or "0"
        words = [f"ver:{sock.tp_version} cpy_thresh:{sock.copy_thresh} flags( {text} )"]
        words += [
            f"ring_{name}({_ring_text(ring)})"
            for name, ring in (("rx", self.rx_ring), ("tx", self.tx_ring))
            if ring is not None
        ]
        fanout = self.fanout
        if fanout is not None:
            words.append(f"fanout(id:{fanout.id},type:{fanout.type_name})")
        return " ".join(words)

    def filter_words(self) -> str:
        """The words of ``ss -b`` for its filter, an empty text if it has none."""
        found = self.filter
        if found is None:
            return ""
        code = "".join(f" 0x{i.code:02x} {i.jt} {i.jf} {i.k}," for i in found)
        return f"bpf filter ({len(found)}): {code}"


def _ring_text(ring: PacketRing) -> str:
    return (
        f"blk_size:{ring.block_size},blk_nr:{ring.block_nr},frm_size:{ring.frame_size},"
        f"frm_nr:{ring.frame_nr},tmo:{ring.retire_ms},features:{ring.features:#x}"
    )


@once_per_program
def _flag_bits(prog: Program) -> dict[str, int]:
    """The number of the bit in ``flags`` for each flag that this kernel keeps there."""
    try:
        values = dict(prog.type("enum packet_sock_flags").enumerators or ())
    except LookupError:
        return {}
    return {name: values[constant] for name, constant in FLAGS.items() if constant in values}


def packet_flags(prog: Program, sock: PacketSock) -> list[str]:
    """Names of the flags of a socket, as in :data:`FLAGS`."""
    bits = _flag_bits(prog)
    found = {name for name, bit in bits.items() if (sock.flag_bits or 0) >> bit & 1}
    old = _OldFlags.layout(prog)
    flags = old.follow(sock.address) if old.sources else None
    if flags is not None:
        found.update(name for name in FLAGS if getattr(flags, name, 0))
        if flags.xmit and flags.xmit == symbol_address(prog, "packet_direct_xmit"):
            found.add("qdisc_bypass")
    if sock.vnet_hdr_sz:
        found.add("vnethdr")
    return [name for name in FLAGS if name in found]


def _ring_dict(which: str, record: PacketRecord) -> dict[str, int] | None:
    ring: PacketRing | None = getattr(record, which)
    return None if ring is None else ring._asdict()


def _fanout_dict(record: PacketRecord) -> dict[str, object] | None:
    fanout = record.fanout
    if fanout is None:
        return None
    return {
        "id": fanout.id,
        "type": fanout.type_name,
        "flags": fanout.flags,
        "members": [f"{sk:#x}" for sk in fanout.members],
    }


def _membership_dicts(record: PacketRecord) -> list[dict[str, object]]:
    return [
        {
            "ifindex": m.ifindex,
            "type": m.type_name,
            "address": m.address[: m.alen].hex(":"),
            "times": m.times,
        }
        for m in record.memberships
    ]


_column = functools.partial(Column, of=PacketRecord)


class Packet(Family):
    """Packet sockets."""

    name = "packet"
    record = PacketRecord
    columns = (
        _column(
            "packet_flags",
            "running, auxdata, origdev, vnethdr, loss, tx_has_off, pressure, qdisc_bypass",
            attrgetter("flag_names"),
        ),
        _column(
            "rx_ring",
            "ring that a packet socket receives into; bytes, ms",
            functools.partial(_ring_dict, "rx_ring"),
        ),
        _column(
            "tx_ring",
            "ring that a packet socket sends from; bytes, ms",
            functools.partial(_ring_dict, "tx_ring"),
        ),
        _column("fanout", "sockets that a packet socket shares what comes with", _fanout_dict),
        _column("memberships", "what a packet socket has interfaces receive", _membership_dicts),
        _column(
            "filter",
            "classic BPF of a packet socket: code, jt, jf, k of each instruction",
            attrgetter("filter"),
            text=lambda r: r.filter_words() or None,
        ),
    )

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        return for_each_packet(prog, known)
