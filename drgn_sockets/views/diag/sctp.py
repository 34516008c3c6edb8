# SPDX-License-Identifier: LGPL-2.1-or-later
"""``sctp_diag``: SCTP sockets, with a message for each of their associations."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from drgn import Program

from drgn_sockets.kernel.sock import AF_INET, AF_INET6, IPPROTO_SCTP, TCP_LISTEN
from drgn_sockets.records.families.sctp import SctpAssociationRecord, SctpRecord
from drgn_sockets.views.diag import inet
from drgn_sockets.views.diag.base import Diag, DiagKind, asked_for
from drgn_sockets.views.diag.forms import Value

# enum sctp_event_timeout
_SCTP_EVENT_TIMEOUT_T3_RTX = 4
# struct sockaddr_storage
_SOCKADDR_SIZE = 128
_INFO = "struct sctp_info"
_LOCALS, _PEERS = 12, 13


def fill(diag: Diag, record: SctpRecord) -> dict[str, Value]:
    """``inet_diag_msg_common_fill()``, and ``inet_diag_msg_sctpasoc_fill()`` of an association"""
    values = inet.fill(diag, record)
    if not isinstance(record, SctpAssociationRecord):
        return values
    six = record.family == AF_INET6
    # The kernel takes all addresses for addresses of the socket's family.
    place = slice(8, 24) if six else slice(4, 8)
    local = next(iter(record.local_addrs() or ()), b"")
    values.update(
        idiag_state=record.assoc.assoc_state,
        idiag_sport=record.local_port.to_bytes(2, "big"),
        idiag_dport=record.remote_port.to_bytes(2, "big"),
        idiag_src=local[place],
        idiag_dst=record.primary_addr()[place],
        idiag_if=record.ifindex,
    )
    timer = record.timer
    if timer is not None:
        values.update(
            idiag_timer=_SCTP_EVENT_TIMEOUT_T3_RTX,
            idiag_retrans=timer.retrans,
            idiag_expires=diag.expires_ms(timer.expires),
        )
    return values


def info(diag: Diag, record: SctpRecord) -> bytes | None:
    """``sctp_get_sctp_info()``"""
    told = record.info()._asdict()
    values: dict[str, Value] = {f"sctpi_{n}": v for n, v in told.items() if isinstance(v, int)}
    if isinstance(record, SctpAssociationRecord):
        # In the kernel's type, sctpi_p_address has members of its own.
        address = record.primary_addr().ljust(_SOCKADDR_SIZE, b"\0")
        family, aligned = struct.unpack_from(diag.order + "H", address), address[:8]
        values.update(sctpi_p_address=address, ss_family=family[0], __data=address[2:])
        values["__align"] = int.from_bytes(aligned, "little" if diag.order == "<" else "big")
    return diag.structure(_INFO).pack(values)


def _addresses(addrs: Iterable[bytes]) -> bytes:
    return b"".join(addr.ljust(_SOCKADDR_SIZE, b"\0") for addr in addrs)


def locals_(diag: Diag, record: SctpRecord) -> bytes | None:
    return _addresses(record.local_addrs() or ())


def cong(diag: Diag, record: SctpRecord) -> bytes | None:
    return b"reno\0" if isinstance(record, SctpAssociationRecord) else None


def peers(diag: Diag, record: SctpRecord) -> bytes | None:
    if not isinstance(record, SctpAssociationRecord):
        return None
    return _addresses(record.peer_addrs())


ATTRIBUTES = inet.attributes_with(
    {
        "INET_DIAG_MEMINFO": (inet.elsewhere, None),
        "INET_DIAG_INFO": (info, _INFO),
        "INET_DIAG_CONG": (cong, None),
        "INET_DIAG_LOCALS": (locals_, None),
        "INET_DIAG_PEERS": (peers, None),
    }
)


def part(members: Mapping[str, Value], attributes: Mapping[int, bytes]) -> bytes:
    """Tell associations of a socket apart by their other end."""
    if _PEERS not in attributes:
        return b""
    port = members["idiag_dport"]
    assert isinstance(port, bytes)
    return port + attributes[_PEERS]


def _dumped(diag: Diag, record: SctpRecord) -> bool:
    """Whether the socket listens, or has associations."""
    is_association = isinstance(record, SctpAssociationRecord)
    return is_association or record.state == TCP_LISTEN or bool(record.parts())


def _is_known(prog: Program) -> bool:
    # Types of the module sctp, which its tables and addresses are made of.
    try:
        prog.type("struct sctp_sockaddr_entry")
    except LookupError:
        return False
    return True


KIND = DiagKind(
    families=frozenset({AF_INET, AF_INET6}),
    protocols={IPPROTO_SCTP: "sctp"},
    header="struct inet_diag_msg",
    attributes=ATTRIBUTES,
    protocol_of=asked_for(SctpRecord, IPPROTO_SCTP),
    fill=fill,
    label=inet.label,
    dumped=_dumped,
    types=inet.TYPES,
    padding=inet.PADDING,
    part=part,
    is_known=_is_known,
)
