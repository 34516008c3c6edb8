# SPDX-License-Identifier: LGPL-2.1-or-later
"""IP addresses, networks, hosts and ports, as users of ``ss`` write them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from socket import inet_pton
from typing import NamedTuple

from drgn_sockets.kernel.sock import AF_INET, AF_INET6


def c_int(text: str) -> int | None:
    """Parse a number as C writes it: ``22``, ``0x16``, ``026``; ``None`` if it is none."""
    if re.fullmatch("0[xX][0-9a-fA-F]+", text, re.ASCII):
        return int(text, 16)
    if re.fullmatch("0[0-7]+", text):
        return int(text, 8)
    # No number that a socket has is longer.
    return int(text) if re.fullmatch("[1-9][0-9]{0,18}|0", text) else None


def shown(text: str) -> str:
    """Quote what a user wrote, for a message."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return f'"{printable}"'


_V4_BITS = 32
_V4_MAPPED = 0xFFFF


class Network(NamedTuple):
    """The IP addresses that begin with the same bits."""

    #: ``AF_*``
    family: int
    #: How many bits at the end of an address are not compared.
    shift: int
    #: The bits before these, as a number.
    prefix: int

    @classmethod
    def of(cls, address: bytes, length: int | None = None) -> Network:
        """
        Make a network of an address.

        :param address: 4 or 16 bytes
        :param length: How many bits are compared, by default all
        """
        bits = len(address) * 8
        shift = 0 if length is None else bits - length
        family = AF_INET if bits == _V4_BITS else AF_INET6
        return cls(family, shift, int.from_bytes(address, "big") >> shift)

    def has(self, address: bytes) -> bool:
        """Tell whether an address of 4 or 16 bytes is in it."""
        bits, number = len(address) * 8, int.from_bytes(address, "big")
        if self.family == (AF_INET if bits == _V4_BITS else AF_INET6):
            return number >> self.shift == self.prefix
        # An IPv6 socket that is connected by IPv4 has an IPv4 address in its own.
        return (
            self.family == AF_INET
            and number >> _V4_BITS == _V4_MAPPED
            and (number & (1 << _V4_BITS) - 1) >> self.shift == self.prefix
        )


def prefix_length(text: str) -> int | None:
    """Parse the length of a prefix: ``24``, or ``255.255.255.0``; ``None`` if it is none."""
    if "." not in text:
        return c_int(text)
    mask = _ipv4(text)
    if mask is None:
        return None
    bits = f"{int.from_bytes(mask, 'big'):032b}"
    return bits.count("1") if "01" not in bits else None


def _ipv4(text: str) -> bytes | None:
    """An IPv4 address or the beginning of one, as ``get_addr_ipv4()`` of iproute2 takes it."""
    numbers = [c_int(part) for part in text.split(".")]
    if len(numbers) > 4 or any(number is None or number > 255 for number in numbers):
        return None
    return bytes(number or 0 for number in numbers).ljust(4, b"\0")


def addresses_of(host: str, family: str = "") -> Iterator[bytes]:
    """
    Find the IP addresses that a host stands for.

    :param host: An address, the beginning of an IPv4 address, or a name in ``/etc/hosts``
    :param family: ``inet``, ``inet6``, or empty for both
    """
    if ":" in host:
        if family != "inet":
            try:
                yield inet_pton(AF_INET6, host)
            except (OSError, ValueError):
                pass
        return
    if re.match("[0-9]", host):
        v4 = _ipv4(host)
        if v4 is not None and family != "inet6":
            yield v4
        return
    sizes = {"inet": (4,), "inet6": (16,)}.get(family, (4, 16))
    for address in _hosts().get(host.lower(), ()):
        if len(address) in sizes:
            yield address


@functools.lru_cache(None)
def _hosts() -> dict[str, list[bytes]]:
    """Addresses by the names that ``/etc/hosts`` has for them."""
    found: dict[str, list[bytes]] = {}
    try:
        with open("/etc/hosts", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            lines = file.read(1 << 20).splitlines()
    except OSError:
        return found
    for line in lines:
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            address = inet_pton(AF_INET6 if ":" in words[0] else AF_INET, words[0])
        except OSError:
            continue
        for name in words[1:]:
            found.setdefault(name.lower(), []).append(address)
    return found


def port_number(text: str, services: Sequence[str] = ("udp", "tcp"), most: int = 0xFFFF) -> int:
    """
    Find the number of a port.

    :param text: A number, or a name in ``/etc/services``
    :param services: Protocols whose names are known
    :param most: The highest port
    :raises ValueError: with what is wrong, if there is no such port
    """
    number = c_int(text)
    if number is not None:
        if number > most:
            raise ValueError(f"there is no port {text}")
        return number
    # The import takes a while, and most ports are numbers.
    import socket

    found = {}
    for protocol in services:
        try:
            found[protocol] = socket.getservbyname(text, protocol)
        except (OSError, ValueError):
            # No such service, or bytes that no name has.
            pass
    if not found:
        raise ValueError(f"expected a port, a number or a name in /etc/services: {shown(text)}")
    if len(set(found.values())) > 1:
        ports = " and ".join(f"{port}/{protocol}" for protocol, port in found.items())
        raise ValueError(f"{text} is {ports}; give the number")
    return min(found.values())
