# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The other end of TCP connections, played by hand over a TUN device.

The state of a TCP socket depends on its peer: whether that answers a SYN, acknowledges a FIN, opens
a window. This peer is a script: it reads the kernel's packets from a TUN device, and writes
answers to those it chooses. It can put a socket into any state and leave it there, without races.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import time
from typing import NamedTuple

from .process import WorkloadError

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
#: Maximum segment size 1400; with selective ACKs and a window scale of 7.
PLAIN = b"\x02\x04\x05\x78"
RICH = PLAIN + b"\x01\x01\x04\x02" + b"\x01\x03\x03\x07"
#: The TCP Fast Open option without a cookie: asks for one.
FAST_OPEN = PLAIN + b"\x22\x02\x01\x01"


class Segment(NamedTuple):
    """A TCP segment that the kernel sent."""

    source: bytes
    target: bytes
    source_port: int
    target_port: int
    seq: int
    ack: int
    flags: int
    size: int


def _sum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _parse(packet: bytes) -> Segment | None:
    if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_TCP:
        offset = (packet[0] & 15) * 4
        source, target = packet[12:16], packet[16:20]
    elif packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_TCP:
        offset = 40
        source, target = packet[8:24], packet[24:40]
    else:
        return None
    ports = struct.unpack_from("!HHIIBB", packet, offset)
    size = len(packet) - offset - (ports[4] >> 4) * 4
    return Segment(source, target, ports[0], ports[1], ports[2], ports[3], ports[5], size)


class Wire:
    """A TUN device, and the packets on it."""

    def __init__(self, name: str) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        request = struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI)
        try:
            fcntl.ioctl(self.fd, TUNSETIFF, request)
        except OSError:
            os.close(self.fd)
            raise

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        os.close(self.fd)

    def receive(self, seconds: float) -> Segment | None:
        """The next TCP segment, if one comes within the time."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if left < 0 or not select.select([self.fd], [], [], left)[0]:
                return None
            try:
                segment = _parse(os.read(self.fd, 65536))
            except BlockingIOError:
                continue
            if segment:
                return segment

    def expect(self, port: int, flags: int, seconds: float = 20, source: int = 0) -> Segment:
        """
        Wait for a segment to *port* (the peer's) with all of *flags*.

        :param source: the kernel's port, where it is known
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            segment = self.receive(end - time.monotonic())
            if not segment or segment.target_port != port or segment.flags & flags != flags:
                continue
            if source in (0, segment.source_port):
                return segment
        raise WorkloadError(f"no segment to port {port} with flags {flags:#x}")

    def drain(self, seconds: float) -> None:
        """Read and drop all packets: without answers, the states stay as they are."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.receive(end - time.monotonic())


class Peer:
    """The peer's end of one connection."""

    def __init__(
        self,
        wire: Wire,
        ours: bytes,
        kernels: bytes,
        port: int,
        kernel_port: int,
        seq: int = 1000000,
    ) -> None:
        self.wire = wire
        self.ours, self.kernels = ours, kernels
        self.port, self.kernel_port = port, kernel_port
        self.seq, self.ack = seq, 0
        self.window = 64000

    @classmethod
    def answering(cls, wire: Wire, port: int) -> Peer:
        """The peer of a connection that the kernel is just opening to *port*."""
        syn = wire.expect(port, SYN)
        peer = cls(wire, syn.target, syn.source, port, syn.source_port)
        peer.ack = syn.seq + 1 & 0xFFFFFFFF
        return peer

    def send(self, flags: int, data: bytes = b"", options: bytes = b"", ahead: int = 0) -> None:
        """
        Send a segment.

        :param ahead: added to the sequence number (negative: an old segment)
        """
        seq = self.seq + ahead & 0xFFFFFFFF
        offset = (20 + len(options)) // 4 << 4
        acked = self.ack if flags & ACK else 0
        tcp = (
            struct.pack(
                "!HHIIBBHHH",
                self.port,
                self.kernel_port,
                seq,
                acked,
                offset,
                flags,
                self.window,
                0,
                0,
            )
            + options
            + data
        )
        pseudo = self.ours + self.kernels + struct.pack("!II", len(tcp), socket.IPPROTO_TCP)
        tcp = tcp[:16] + struct.pack("!H", _sum(pseudo + tcp)) + tcp[18:]
        if len(self.ours) == 4:
            ip = (
                struct.pack(
                    "!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, socket.IPPROTO_TCP, 0
                )
                + self.ours
                + self.kernels
            )
            ip = ip[:10] + struct.pack("!H", _sum(ip)) + ip[12:]
        else:
            ip = struct.pack("!IHBB", 6 << 28, len(tcp), socket.IPPROTO_TCP, 64)
            ip += self.ours + self.kernels
        for _ in range(100):
            try:
                os.write(self.wire.fd, ip + tcp)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                    raise
                time.sleep(0.01)
        if not ahead:
            self.seq = self.seq + len(data) + bool(flags & (SYN | FIN)) & 0xFFFFFFFF

    def expect(self, flags: int) -> Segment:
        """Wait for a segment of this connection."""
        return self.wire.expect(self.port, flags, source=self.kernel_port)

    def take(self, flags: int) -> None:
        """Wait for a segment of the kernel's, and count it as received."""
        segment = self.expect(flags)
        self.ack = segment.seq + segment.size + bool(segment.flags & (SYN | FIN)) & 0xFFFFFFFF
