# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Asking sock_diag for all sockets of a network namespace, saving its replies, reading them back.

A saved file has the messages of the netlink socket between two lines of our own. The file starts
with ``drgn-sockets sock_diag 1`` and a newline, and ends with ``end`` and a newline. Each message
is a ``struct nlmsghdr`` in the machine's byte order and a payload, padded to four bytes. A message
with ``NLM_F_REQUEST`` stands for a request: its payload is two 32-bit numbers, family and protocol.
The answers to the request follow as the kernel gave them. ``NLMSG_DONE`` ends the answers, with 0
or a negative error number.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Union

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17
AF_TIPC, AF_VSOCK, AF_SMC, AF_XDP = 30, 40, 43, 44
IPPROTO_TCP, IPPROTO_UDP, IPPROTO_DCCP, IPPROTO_SCTP = 6, 17, 33, 132
IPPROTO_UDPLITE, IPPROTO_RAW, IPPROTO_MPTCP = 136, 255, 262
NETLINK_ALL = 0xFF

SOCK_DIAG_BY_FAMILY = 20
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_DUMP_INTR, NLM_F_DUMP = 1, 2, 0x10, 0x300
#: A dump that the kernel marks as interrupted is asked for at most so many times.
ATTEMPTS = 8

_NLMSGHDR = struct.Struct("=IHHII")
_FIRST, _LAST = b"drgn-sockets sock_diag 1\n", b"end\n"

NetNS = Union[int, str, None]


class Reply(NamedTuple):
    """An answer of the kernel, and what was asked."""

    #: ``AF_*`` that was asked for.
    family: int
    #: ``IPPROTO_*`` that was asked for; 0 where the family has none, 255 for all of netlink's.
    protocol: int
    #: Payload of one ``SOCK_DIAG_BY_FAMILY`` message, without its ``struct nlmsghdr``.
    message: bytes


class Unanswered(NamedTuple):
    """A request that this kernel refused, mostly because it does not know the family."""

    family: int
    protocol: int
    #: Error number.
    error: int


class Request(NamedTuple):
    """A request: family, protocol, the members after these two, and the attributes."""

    family: int
    protocol: int
    #: Name, format (of :mod:`struct`) and value of each member.
    members: tuple[tuple[str, str, Any], ...]
    attributes: tuple[tuple[str, Any], ...] = ()


#: Every state, also states that no ``struct tcp_sock`` has.
_ALL = 0xFFFFFFFF
_COOKIE = ("cookie", "Q", 0)


def _inet(family: int, protocol: int) -> Request:
    """``struct inet_diag_req_v2``"""
    # idiag_ext has bits for the first eight attributes. The bit of INET_DIAG_TCLASS also brings
    # INET_DIAG_CLASS_ID. The kernel sends the other attributes without being asked.
    members = (("ext", "B", 0xFF), ("pad", "B", 0), ("states", "I", _ALL), ("id", "48s", b""))
    # An empty list of BPF maps stands for all.
    attributes: tuple[tuple[str, Any], ...] = (("INET_DIAG_REQ_SK_BPF_STORAGES", b""),)
    if protocol > 0xFF:
        attributes += (("INET_DIAG_REQ_PROTOCOL", protocol),)
    return Request(family, protocol, members, attributes)


def _shown(family: int, protocol: int, show: int, *between: tuple[str, str, Any]) -> Request:
    """A request with an inode, a mask of what to show, and a cookie."""
    ino = ("ino", "I", 0)
    members = (("pad", "H", 0), *between, ino, ("show", "I", show), _COOKIE)
    return Request(family, protocol, members)


_STATES = ("states", "I", _ALL)
#: All requests. The masks of what to show for unix, netlink, packet and XDP have the bits that
#: linux/*_diag.h names, as of Linux 7.2, and no others. All other masks have every bit set.
REQUESTS: tuple[Request, ...] = (
    *(
        _inet(family, protocol)
        for protocol in (
            *(IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, IPPROTO_RAW),
            *(IPPROTO_MPTCP, IPPROTO_SCTP, IPPROTO_DCCP),
        )
        for family in (AF_INET, AF_INET6)
    ),
    _shown(AF_UNIX, 0, 0x7F, _STATES),
    # Kernels no longer answer NDIAG_SHOW_RING_CFG (4), because netlink has no rings any more.
    _shown(AF_NETLINK, NETLINK_ALL, 0xF),
    _shown(AF_PACKET, 0, 0x3F),
    _shown(AF_VSOCK, 0, _ALL, _STATES),
    _shown(AF_XDP, 0, 0x1F),
    # struct smc_diag_req
    Request(AF_SMC, 0, (("pad", "B", 0), ("ext", "B", 0xFF), ("id", "48s", b""))),
    # struct tipc_sock_diag_req
    Request(AF_TIPC, 0, (("pad", "H", 0), _STATES)),
)


class _Datagrams:
    """
    Makes pyroute2's messages of datagrams: one for each datagram, with the payloads as bytes.

    This replaces pyroute2's marshals, which decode payloads, and take the error number of a failed
    request for a family.
    """

    def __init__(self) -> None:
        self.seq_map: dict[int, Any] = {}

    def parse(self, data: bytes, seq: int = 0, callback: Any = None) -> Iterator[dict[str, Any]]:
        messages: list[bytes] = []
        flags = error = 0
        done = False
        for kind, flag, payload in _messages(data):
            flags |= flag
            if kind == SOCK_DIAG_BY_FAMILY:
                messages.append(payload)
            elif kind in (NLMSG_DONE, NLMSG_ERROR):
                done = True
                if len(payload) >= 4:
                    error = struct.unpack_from("=i", payload)[0]
        yield {"header": {"type": SOCK_DIAG_BY_FAMILY, "flags": flags}, "messages": messages}
        if done:
            failure = OSError(-error, os.strerror(-error)) if error else None
            yield {"header": {"type": NLMSG_DONE, "flags": flags, "error": failure}}

    def is_enough(self, message: dict[str, Any]) -> bool:
        return bool(message["header"]["type"] == NLMSG_DONE)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """
    Split *data* into netlink messages: type, flags and payload of each.

    :raises ValueError: if *data* is anything but whole messages
    """
    at = 0
    while at < len(data):
        if at + _NLMSGHDR.size > len(data):
            raise ValueError(f"byte {at}: the header of a message is cut off")
        length, kind, flags, _, _ = _NLMSGHDR.unpack_from(data, at)
        if length < _NLMSGHDR.size or at + length > len(data):
            raise ValueError(f"byte {at}: a message cannot have {length} bytes")
        yield kind, flags, data[at + _NLMSGHDR.size : at + length]
        at += length + 3 & ~3


def _own_sockets() -> set[int]:
    """Inodes of all sockets that this process has open."""
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            status = fd.stat()
        except OSError:
            continue
        if stat.S_ISSOCK(status.st_mode):
            found.add(status.st_ino)
    return found


def _asks_itself(reply: Reply, own: set[int]) -> bool:
    """Whether a reply is about one of the sockets that were opened for asking."""
    # Offsets of udiag_ino and ndiag_ino.
    at = {AF_UNIX: 4, AF_NETLINK: 16}.get(reply.family)
    if at is None or len(reply.message) < at + 4:
        return False
    return struct.unpack_from("=I", reply.message, at)[0] in own


class _Asker:
    """A diag socket in the calling thread's network namespace."""

    def __init__(self) -> None:
        # Importing pyroute2 takes 83 ms, and only check --diag needs it.
        from pyroute2 import DiagSocket

        before = _own_sockets()
        self.socket = DiagSocket()
        self.socket.set_marshal(_Datagrams())
        self.socket.bind()
        self.own = _own_sockets() - before

    def close(self) -> None:
        self.socket.close()

    def _message(self, request: Request) -> Any:
        from pyroute2.netlink import nlmsg

        members = (
            ("family", "B", request.family),
            # A protocol above 255 is in the attribute INET_DIAG_REQ_PROTOCOL.
            ("protocol", "B", min(request.protocol, 0xFF)),
            *request.members,
        )
        attributes = (
            *(("NONE", "none"), ("BYTECODE", "cdata")),
            *(("SK_BPF_STORAGES", "cdata"), ("PROTOCOL", "uint32")),
        )
        kind = type(
            "request",
            (nlmsg,),
            {
                "fields": tuple((name, form) for name, form, _ in members),
                "nla_map": tuple((f"INET_DIAG_REQ_{name}", form) for name, form in attributes),
            },
        )
        message = kind()
        message.update({name: value for name, _, value in members})
        message["attrs"] = [list(attribute) for attribute in request.attributes]
        return message

    def _dump(self, request: Request) -> tuple[list[bytes], bool]:
        """One dump, and whether it was interrupted."""
        found: list[bytes] = []
        interrupted = False
        for datagram in self.socket.nlm_request(
            self._message(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP
        ):
            found += datagram["messages"]
            interrupted |= bool(datagram["header"]["flags"] & NLM_F_DUMP_INTR)
        return found, interrupted

    def answers(self, request: Request) -> list[Reply]:
        """
        Get all answers to a request.

        :raises OSError: if the kernel refuses, or every dump is interrupted (``EAGAIN``)
        """
        for _ in range(ATTEMPTS):
            found, interrupted = self._dump(request)
            if not interrupted:
                replies = [Reply(request.family, request.protocol, m) for m in found]
                return [reply for reply in replies if not _asks_itself(reply, self.own)]
        raise OSError(errno.EAGAIN, "the dump is always interrupted")


def _enter(netns: NetNS) -> None:
    """Move the calling thread to a network namespace, by the path of its file or an open fd."""
    if netns is None:
        return
    from pyroute2 import netns as namespaces

    if isinstance(netns, int):
        namespaces.setns(netns)
        return
    # Given a path, pyroute2 would create the namespace if there is none.
    with Path(netns).open("rb") as file:
        namespaces.setns(file.fileno())


def ask(netns: NetNS = None, unanswered: list[Unanswered] | None = None) -> Iterator[Reply]:
    """
    Ask this machine's kernel of all sockets in a network namespace.

    The sockets opened for asking are left out of the replies, and are closed at the end.

    :param netns: Path of the namespace's file (``/proc/PID/ns/net``), or a file descriptor of such
        a file; the caller's own namespace if not given.
    :param unanswered: Gets the requests that this kernel does not answer.
    :raises OSError: if the namespace cannot be entered, or there is no sock_diag at all
    :raises ImportError: if there is no pyroute2
    """
    # A separate thread can change its namespace without changing the caller's, and has no event
    # loop that would disturb pyroute2.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(_enter, netns).result()
        asker = thread.submit(_Asker).result()
        try:
            for request in REQUESTS:
                try:
                    yield from thread.submit(asker.answers, request).result()
                except OSError as error:
                    if unanswered is not None:
                        why = error.errno or errno.EIO
                        unanswered.append(Unanswered(request.family, request.protocol, why))
        finally:
            thread.submit(asker.close).result()


def _pack(kind: int, flags: int, payload: bytes) -> bytes:
    length = _NLMSGHDR.size + len(payload)
    return _NLMSGHDR.pack(length, kind, flags, 0, 0) + payload + b"\0" * (-length % 4)


def save(
    replies: Iterable[Reply], path: str | os.PathLike[str], unanswered: Iterable[Unanswered] = ()
) -> None:
    """
    Write replies to a file, grouped by request; replies to one request keep their order.

    :param unanswered: The list that :func:`ask` fills; it is read after all *replies*.
    :raises OSError: if the file cannot be written
    """
    groups: dict[tuple[int, int], list[bytes]] = {}
    for family, protocol, message in replies:
        groups.setdefault((family, protocol), []).append(message)
    refused = {(family, protocol): error for family, protocol, error in unanswered}
    with Path(path).open("wb") as file:
        file.write(_FIRST)
        for key in {**groups, **refused}:
            file.write(
                _pack(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, struct.pack("=II", *key))
            )
            for message in groups.get(key, ()):
                file.write(_pack(SOCK_DIAG_BY_FAMILY, NLM_F_MULTI, message))
            done = struct.pack("=i", -refused.get(key, 0))
            file.write(_pack(NLMSG_DONE, NLM_F_MULTI, done))
        file.write(_LAST)


def load_all(path: str | os.PathLike[str]) -> tuple[list[Reply], list[Unanswered]]:
    """
    Read the replies and the unanswered requests that :func:`save` wrote.

    :raises OSError: if the file cannot be read
    :raises ValueError: if the file is not of this form, or is damaged
    """
    data = Path(path).read_bytes()
    if not data.startswith(_FIRST):
        raise ValueError(f"{path}: not saved replies of sock_diag")
    if not data.endswith(_LAST) or len(data) < len(_FIRST) + len(_LAST):
        raise ValueError(f"{path}: its end is missing")
    try:
        return _read(data[len(_FIRST) : -len(_LAST)])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read(data: bytes) -> tuple[list[Reply], list[Unanswered]]:
    replies: list[Reply] = []
    unanswered: list[Unanswered] = []
    asked: tuple[int, int] | None = None
    for kind, flags, payload in _messages(data):
        if kind == SOCK_DIAG_BY_FAMILY and flags & NLM_F_REQUEST:
            if asked:
                raise ValueError("a request among the answers to another")
            if len(payload) != 8:
                raise ValueError(f"a request of {len(payload)} bytes, not 8")
            asked = struct.unpack("=II", payload)
        elif not asked:
            raise ValueError("an answer to no request")
        elif kind == SOCK_DIAG_BY_FAMILY:
            replies.append(Reply(*asked, payload))
        elif kind == NLMSG_DONE and len(payload) == 4:
            error = struct.unpack("=i", payload)[0]
            if error:
                unanswered.append(Unanswered(*asked, -error))
            asked = None
        else:
            raise ValueError(f"a message of type {kind}, with {len(payload)} bytes")
    if asked:
        raise ValueError("answers without an end")
    return replies, unanswered


def load(path: str | os.PathLike[str]) -> list[Reply]:
    """
    Read the replies that :func:`save` wrote.

    :raises OSError: if the file cannot be read
    :raises ValueError: if the file is not of this form, or is damaged
    """
    return load_all(path)[0]
