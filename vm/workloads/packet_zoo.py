# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Packet and AF_XDP sockets: rings, fanout, memberships, filters, options, on their own veth pair.

Ethertypes are experimental ones, and the devices have no IPv6, so that only frames of this
workload arrive.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from functools import partial
from pathlib import Path
from typing import Any

from . import syscalls
from .process import Process

PACKET, XDP = 17, 44
RAW, DGRAM = socket.SOCK_RAW, socket.SOCK_DGRAM
DEVICE, OTHER = "ds-pk0", "ds-pk1"
ETHERTYPE = 0x88B7
SOL_PACKET, SOL_XDP = 263, 283
SO_ATTACH_FILTER = 26
FANOUT = {"hash": 0, "lb": 1, "cpu": 2, "rollover": 3, "rnd": 4, "qm": 5, "cbpf": 6}
FLAGS = {"rollover": 0x1000, "uniqueid": 0x2000, "ignore_outgoing": 0x4000, "defrag": 0x8000}
#: Name, option, value.
OPTIONS = (
    ("PACKET_COPY_THRESH", 7, 2048),
    ("PACKET_AUXDATA", 8, 1),
    ("PACKET_ORIGDEV", 9, 1),
    ("PACKET_RESERVE", 12, 64),
    ("PACKET_LOSS", 14, 1),
    ("PACKET_VNET_HDR", 15, 1),
    ("PACKET_TIMESTAMP", 17, 64),
    ("PACKET_TX_HAS_OFF", 19, 1),
    ("PACKET_QDISC_BYPASS", 20, 1),
    ("PACKET_IGNORE_OUTGOING", 23, 1),
    ("PACKET_VNET_HDR_SZ", 24, 12),
)
#: Classic BPF: accept all; IPv4's TCP only.
ACCEPT = ((0x06, 0, 0, 0xFFFF),)
ONLY_TCP = ((0x28, 0, 0, 12), (0x15, 0, 3, 0x800), (0x30, 0, 0, 23), (0x15, 0, 1, 6), *ACCEPT)
FILTER = (*ONLY_TCP, (0x06, 0, 0, 0))


def attach(sock: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    """Attach a classic BPF program to a socket."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    value = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, value)


def _fanout_program(sock: socket.socket) -> None:
    code = struct.pack("=HBBI", 0x06, 0, 0, 0)
    buffer = ctypes.create_string_buffer(code, len(code))
    fanout_data = 22
    sock.setsockopt(SOL_PACKET, fanout_data, struct.pack("@HP", 1, ctypes.addressof(buffer)))


def _bound(me: Process, kind: int = RAW, ethertype: int = ETHERTYPE, **facts: Any) -> socket.socket:
    # With protocol 0 it receives nothing before it is bound to the device.
    sock = me.hold(socket.socket(PACKET, kind, 0), **facts)
    sock.bind((DEVICE, ethertype))
    return sock


def _options(me: Process) -> None:
    for name, option, value in OPTIONS:
        sock = me.hold(socket.socket(PACKET, RAW, 0), options={name: value})
        try:
            sock.setsockopt(SOL_PACKET, option, value)
        except OSError as error:
            me.note(sock, options={})
            me.skip(name, error)
        sock.bind((DEVICE, ETHERTYPE + 1))
    everything = _bound(me, ethertype=ETHERTYPE + 1, note="several options")
    for option in (8, 9, 14):
        everything.setsockopt(SOL_PACKET, option, 1)
    me.add("never_bound", **me.end(me.hold(socket.socket(PACKET, RAW, 0), note="protocol 0")))
    for kind in (RAW, DGRAM):
        protocol = socket.htons(ETHERTYPE + 2)
        me.hold(socket.socket(PACKET, kind, protocol), note="any device, one protocol")


def _memberships(me: Process) -> None:
    index = socket.if_nametoindex(DEVICE)
    sock = _bound(me, note="memberships", ethertype=ETHERTYPE + 1)
    add_membership = 1
    for kind, address in (
        (0, bytes.fromhex("333300d50001")),
        (0, bytes.fromhex("01005e00d501")),
        (1, b""),
        (2, b""),
        (3, bytes.fromhex("02d500000001")),
    ):
        value = struct.pack("=iHH8s", index, kind, len(address), address)
        sock.setsockopt(SOL_PACKET, add_membership, value)
    # The same one twice: a count of two.
    sock.setsockopt(SOL_PACKET, add_membership, struct.pack("=iHH8s", index, 1, 0, b""))


def _rings(me: Process) -> None:
    packet_version, rx_ring, tx_ring = 10, 5, 13
    for version in range(3):
        for word, rings in (("rx", [rx_ring]), ("tx", [tx_ring]), ("both", [rx_ring, tx_ring])):
            note = f"TPACKET_V{version + 1}, {word}"
            sock = me.hold(socket.socket(PACKET, RAW, 0), note=note)

            def set_up(
                sock: socket.socket = sock, version: int = version, rings: list[int] = rings
            ) -> None:
                sock.setsockopt(SOL_PACKET, packet_version, version)
                for number, ring in enumerate(rings):
                    value = struct.pack("=4I", 4096 << number, 4, 2048, 8 << number)
                    if version == 2:
                        # struct tpacket_req3; a block is handed over after a second.
                        times = (1000, 32, 1) if ring == rx_ring else (0, 0, 0)
                        value += struct.pack("=3I", *times)
                    sock.setsockopt(SOL_PACKET, ring, value)
                sock.bind((DEVICE, ETHERTYPE + 1))

            me.attempt(note, set_up)


def _fanout(me: Process) -> None:
    packet_fanout = 18

    def join(word: str, number: int, value: int, note: str) -> None:
        for _ in range(2):
            sock = _bound(me, ethertype=ETHERTYPE + 3, note=note)
            sock.setsockopt(SOL_PACKET, packet_fanout, struct.pack("=I", number | value << 16))
            if word == "cbpf":
                _fanout_program(sock)

    for number, (word, mode) in enumerate(FANOUT.items(), 100):
        me.attempt(f"fanout {word}", partial(join, word, number, mode, f"fanout {word}"))
    for number, (word, flag) in enumerate(FLAGS.items(), 200):
        if word == "uniqueid":
            # The kernel chooses a number that no other fanout group has.
            sock = _bound(me, ethertype=ETHERTYPE + 3, note="fanout, a number of its own")
            me.attempt(
                "fanout uniqueid",
                lambda sock=sock, flag=flag: sock.setsockopt(  # type: ignore[misc]
                    SOL_PACKET, packet_fanout, flag << 16
                ),
            )
            continue
        me.attempt(f"fanout {word}", partial(join, word, number, flag, f"fanout with {word}"))


def _filters(me: Process) -> None:
    for program in (ACCEPT, FILTER):
        sock = _bound(me, ethertype=ETHERTYPE + 1, note=f"a filter of {len(program)} instructions")
        attach(sock, program)
        me.note(sock, options={"filter": [list(instruction) for instruction in program]})
    locked = _bound(me, DGRAM, ETHERTYPE + 1, note="a filter that is locked")
    attach(locked, ACCEPT)
    so_lock_filter = 44
    locked.setsockopt(socket.SOL_SOCKET, so_lock_filter, 1)


def _queues(me: Process) -> None:
    unread = _bound(me, note="three frames unread")
    cooked = _bound(me, DGRAM, note="three frames unread, without their headers")
    small = _bound(me, note="lost frames: its queue was full")
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sender = me.hold(socket.socket(PACKET, RAW, 0), note="sends")
    sender.bind((OTHER, 0))
    for size in (46, 500, 1500):
        sender.send(b"\xff" * 6 + bytes(6) + struct.pack("!H", ETHERTYPE) + bytes(size))
    me.wait_until("frames over veth", lambda: unread.recv(1, socket.MSG_PEEK) != b"")
    me.note(unread, datagrams=[60, 514, 1514])
    me.note(cooked, datagrams=[46, 500, 1500])


def _xdp(me: Process) -> None:
    me.add("never_bound", **me.end(me.hold(socket.socket(XDP, RAW, 0))))
    rx_ring, tx_ring, umem_reg, fill_ring, completion_ring = 2, 3, 4, 5, 6
    memory = mmap.mmap(-1, 64 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _kept.append(memory)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

    def with_memory(note: str, chunk: int = 4096, headroom: int = 0) -> socket.socket:
        sock = me.hold(socket.socket(XDP, RAW, 0), note=note)
        value = struct.pack("=QQII", address, len(memory), chunk, headroom)
        sock.setsockopt(SOL_XDP, umem_reg, value)
        for ring, size in ((fill_ring, 16), (completion_ring, 32)):
            sock.setsockopt(SOL_XDP, ring, size)
        return sock

    def bind(sock: socket.socket, queue: int, flags: int, other: int = 0) -> None:
        where = socket.if_nametoindex(DEVICE)
        syscalls.bind_raw(sock.fileno(), struct.pack("=HHIII", XDP, flags, where, queue, other))

    shared_umem, copy = 1, 2
    with_memory("memory, not bound")
    rings = me.hold(socket.socket(XDP, RAW, 0), note="rings, no memory")
    rings.setsockopt(SOL_XDP, rx_ring, 64)
    bound = with_memory("bound", 2048, 128)
    bound.setsockopt(SOL_XDP, rx_ring, 128)
    bound.setsockopt(SOL_XDP, tx_ring, 256)
    bind(bound, 0, copy)
    sharing = me.hold(socket.socket(XDP, RAW, 0), note="shares the memory of another")
    sharing.setsockopt(SOL_XDP, rx_ring, 512)
    bind(sharing, 0, shared_umem, bound.fileno())


_kept: list[mmap.mmap] = []


def make_pair(me: Process, one: str, other: str) -> None:
    """Make a veth pair that is up, and sends nothing by itself."""
    me.modprobe("veth")
    me.ip(f"link add {one} type veth peer name {other}")
    for name in (one, other):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        me.ip(f"link set {name} arp off multicast off", f"link set {name} up")


def run(me: Process) -> None:
    me.modprobe("af_packet", "af_packet_diag", "xsk_diag")
    make_pair(me, DEVICE, OTHER)
    for part in (_options, _memberships, _rings, _fanout, _filters, _queues):
        part(me)
    me.attempt("AF_XDP", lambda: _xdp(me))
