# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open files in the words of lsof."""

from __future__ import annotations

import stat
import struct

from drgn import FaultError

from drgn_sockets.kernel.file import major, minor
from drgn_sockets.kernel.locks import F_WRLCK, inode_locks
from drgn_sockets.kernel.lost import sift, untold
from drgn_sockets.kernel.memory import byte_order
from drgn_sockets.kernel.sock import AF_INET6, TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN
from drgn_sockets.named_tuple import NamedTuple
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.families.netlink import NetlinkRecord
from drgn_sockets.records.families.packet import PacketRecord
from drgn_sockets.records.families.unix import UnixRecord
from drgn_sockets.records.fd import FdRecord, FileRecord
from drgn_sockets.records.kinds import known_of
from drgn_sockets.records.socket import SocketRecord

_DELETED = b" (deleted)"
_ANON = b"anon_inode:"

_TYPES = {"reg": "REG", "dir": "DIR", "chr": "CHR", "blk": "BLK", "lnk": "LINK"}
_TYPES.update({"fifo": "FIFO", "pipe": "FIFO", "memfd": "REG", "ns": "REG", "sockfile": "sock"})

# Of some kinds lsof tells more: the field of each.
_TOLD = {"eventfd": "id", "pidfd": "pid", "eventpoll": "tfds"}
#: ``Pid`` of a pidfd whose process has ended.
_GONE = -1

#: States of TCP, as netstat and lsof have them.
_TCP_STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
    12: "SYN_RECV",
}
_SOCK_TYPES = {1: "STREAM", 2: "DGRAM", 3: "RAW", 4: "RDM", 5: "SEQPACKET", 10: "PACKET"}
_NETLINK = {
    0: "ROUTE",
    1: "UNUSED",
    2: "USERSOCK",
    3: "FIREWALL",
    4: "INET_DIAG",
    5: "NFLOG",
    6: "XFRM",
    7: "SELINUX",
    8: "ISCSI",
    9: "AUDIT",
    10: "FIB_LOOKUP",
    11: "CONNECTOR",
    12: "NETFILTER",
    13: "IP6_FW",
    14: "DNRTMSG",
    15: "KOBJECT_UEVENT",
    16: "GENERIC",
    18: "SCSITRANSPORT",
    19: "ECRYPTFS",
    20: "RDMA",
    21: "CRYPTO",
    22: "SMC",
}
_ETHER = {0x3: "ALL", 0x800: "IP", 0x806: "ARP", 0x86DD: "IPV6"}
#: Of ``AF_INET`` and ``AF_INET6``, by name of the family. The first of the sockets that an MPTCP
#: socket consists of has its inode.
_INET = {"tcp": "TCP", "mptcp": "TCP", "udp": "UDP"}
_IPPROTO_UDPLITE = 136


class Words(NamedTuple):
    """What lsof shows of a file after its fd."""

    type: str
    device: str | None
    size_off: str | None
    node: str | None
    #: As bytes: a path may be any.
    name: bytes | None


def words(r: FdRecord) -> Words:
    """The columns TYPE, DEVICE, SIZE/OFF, NODE and NAME."""
    file = r.file
    if file is None or file.inode is None:
        return Words("unknown", None, None, None, _bytes(r.error))
    if file.sk:
        return _socket(file)
    name = file.name or b""
    device = file.rdev if file.kind in ("chr", "blk") else file.dev
    return Words(
        _type(file, name),
        None if device is None else f"{major(device)},{minor(device)}",
        _size(r, file),
        str(file.ino),
        _name(r, file, name) if file.error is None else _bytes(file.error),
    )


def _type(file: FileRecord, name: bytes) -> str:
    if name.startswith(_ANON):
        return "a_inode"
    if file.fs_type == b"mqueue" and file.kind == "reg":
        return "PSXMQ"
    if not stat.S_IFMT(file.i_mode):
        # Of a file system that has no types, as that of dma-buf.
        return "0000"
    return _TYPES.get(file.kind, "unknown")


def _size(r: FdRecord, file: FileRecord) -> str | None:
    if r.assoc == "DEL":
        return None
    if file.kind in ("chr", "blk", "fifo", "pipe", "sockfile"):
        return f"0t{file.pos}"
    return str(file.size)


def _name(r: FdRecord, file: FileRecord, name: bytes) -> bytes:
    if file.kind == "pipe":
        return b"pipe"
    if r.assoc == "DEL" and name.endswith(_DELETED):
        # There the column FD says so.
        return name[: -len(_DELETED)]
    if file.kind == "ns":
        # The number is in the column NODE.
        return name.partition(b":")[0]
    if not name.startswith(_ANON):
        return name
    name = name[len(_ANON) :]
    known = known_of(file)
    field = None if known is None else _TOLD.get(known.kind.name)
    if known is None or known.it is None or field is None:
        return name
    value = next((f.get(known.it) for f in known.kind.fields if f.name == field), None)
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, sorted(value)))
    elif field == "pid" and value == _GONE:
        return name
    return b"%b:%b]" % (name[:-1], str(value).encode()) if value not in (None, "") else name


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")


def fd(r: FdRecord) -> str | None:
    """The column FD: ``3u``, with the letter of a lock after that of the mode; ``cwd``."""
    if r.assoc is not None:
        return r.assoc
    if r.fd is None:
        return None
    file = r.file
    if file is None:
        return str(r.fd)
    # lsof has no letters for neither (access mode 3) and for O_PATH.
    access = {"-": "", "p": ""}.get(file.access, file.access)
    return f"{r.fd}{access}{lock_letter(r)}"


def lock_letter(r: FdRecord) -> str:
    """
    ``R`` or ``W`` for a lock of the process on the whole file, ``r`` or ``w`` for one on a part
    of it, nothing for none.
    """
    file = r.opened
    if file is None or file.inode is None or file.sk:
        return ""
    try:
        for lock in sift(inode_locks(file.prog, file.file.inode), untold):
            if lock.pid == r.table.pid and not lock.is_lease:
                whole = lock.start == 0 and lock.end is None
                letter = "w" if lock.type == F_WRLCK else "r"
                return letter.upper() if whole else letter
    except FaultError:
        return ""
    return ""


# Sockets.


def _socket(file: FileRecord) -> Words:
    socket = file.socket
    if isinstance(socket, UnixRecord):
        return _unix(file, socket)
    if isinstance(socket, InetRecord) and not socket.is_unbound:
        is_idle = socket.family_name == "mptcp" and socket.state == TCP_CLOSE
        if socket.family_name in _INET and not is_idle:
            return _inet(file, socket)
        if socket.family_name == "sctp":
            return Words("sock", str(file.ino), "0t0", "SCTP", _addresses(socket).encode())
        if socket.family_name in ("raw", "ping"):
            return _raw(file, socket)
    if isinstance(socket, NetlinkRecord) and not socket.is_unbound:
        protocol = _NETLINK.get(socket.protocol, f"unknown protocol: {socket.protocol}")
        return Words("netlink", None, "0t0", str(file.ino), protocol.encode())
    if isinstance(socket, PacketRecord):
        number = socket.sock.ethertype
        kind = f"type=SOCK_{_SOCK_TYPES.get(socket.type, socket.type)}"
        return Words("pack", str(file.ino), "0t0", _ETHER.get(number, str(number)), kind.encode())
    device = None if file.dev is None else f"{major(file.dev)},{minor(file.dev)}"
    name = b"protocol: %b%b" % (file.protocol or b"", _ends(socket).encode())
    return Words("sock", device, "0t0", str(file.ino), name)


def _ends(socket: object) -> str:
    """What lsof does not tell of other families."""
    if not isinstance(socket, SocketRecord) or not isinstance(socket, InetRecord):
        return ""
    return "" if socket.is_unbound else f" {_addresses(socket)}"


def _unix(file: FileRecord, socket: UnixRecord) -> Words:
    name = b"" if socket.name is None else socket.name.replace(b"\0", b"@") + b" "
    state = "UNCONNECTED"
    if socket.state == TCP_LISTEN:
        state = "LISTEN"
    elif socket.state == TCP_ESTABLISHED:
        state = "CONNECTED"
    type_ = _SOCK_TYPES.get(socket.type, str(socket.type))
    return Words(
        "unix",
        f"{socket.sk:#018x}",
        "0t0",
        str(file.ino),
        name + f"type={type_} ({state})".encode(),
    )


def _inet(file: FileRecord, socket: InetRecord) -> Words:
    name = _addresses(socket)
    if _INET[socket.family_name] == "TCP":
        name += f" ({_TCP_STATES.get(socket.state, socket.state)})"
    type_ = "IPv6" if socket.family == AF_INET6 else "IPv4"
    node = "UDPLITE" if socket.protocol == _IPPROTO_UDPLITE else _INET[socket.family_name]
    return Words(type_, str(file.ino), "0t0", node, name.encode())


def _addresses(socket: InetRecord) -> str:
    here = _address(socket.local_address, socket.local_port)
    if not socket.remote_port:
        return here
    return f"{here}->{_address(socket.remote_address, socket.remote_port)}"


def _address(address: str, port: int) -> str:
    if address in ("0.0.0.0", "::"):
        return f"*:{port}"
    if address.startswith("::ffff:") and "." in address:
        address = address[len("::ffff:") :]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _raw(file: FileRecord, socket: InetRecord) -> Words:
    """As the columns of ``/proc/net/raw`` and ``icmp``, which lsof takes as they are."""
    if socket.family_name == "ping":
        if socket.family == AF_INET6:
            # lsof does not read /proc/net/icmp6.
            return Words("icmp6", None, "0t0", str(file.ino), _hex_ends(file, socket).encode())
        return Words("icmp", None, "0t0", str(file.ino), _hex_ends(file, socket).encode())
    type_ = "raw6" if socket.family == AF_INET6 else "raw"
    name = f"{_hex_ends(file, socket)} st={socket.state:02X}"
    return Words(type_, None, "0t0", str(file.ino), name.encode())


def _hex_ends(file: FileRecord, socket: InetRecord) -> str:
    sock = socket.sock
    six = socket.family == AF_INET6
    near, far = (sock.v6_rcv_saddr, sock.v6_daddr) if six else (sock.rcv_saddr, sock.daddr)
    form = f"{byte_order(file.prog)}{len(near) // 4}I"
    texts = ("".join(f"{word:08X}" for word in struct.unpack(form, raw)) for raw in (near, far))
    ports = (socket.local_port, socket.remote_port)
    return "->".join(f"{text}:{port:04X}" for text, port in zip(texts, ports))
