# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Conditions on sockets, as the filters of ``ss`` have them: a tree that
:mod:`drgn_sockets.query.ssfilter` parses, and that compiles to one function of a record.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from drgn_sockets.kernel.cgroup import sock_cgroup_path
from drgn_sockets.kernel.sock import AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX
from drgn_sockets.query.hosts import Network, c_int
from drgn_sockets.records.socket import SocketRecord

#: A compiled filter: tells whether a socket is to be shown.
Test = Callable[[SocketRecord], bool]

_AF_VSOCK = 40
#: The families that an expression can name, and their ``AF_*``.
FAMILIES = {
    "inet": AF_INET,
    "inet6": AF_INET6,
    "unix": AF_UNIX,
    "link": AF_PACKET,
    "netlink": AF_NETLINK,
    "vsock": _AF_VSOCK,
}
_INET = frozenset({AF_INET, AF_INET6})

#: What joins conditions, by all that it is written as.
WORDS = {"!": "not", "&": "and", "&&": "and", "|": "or", "||": "or"}
WORDS.update({word: word for word in ("not", "and", "or")})
_OPERATORS = {
    "=": ("=", "==", "eq"),
    "!=": ("!=", "ne", "neq"),
    ">=": (">=", "ge", "geq"),
    "<=": ("<=", "le", "leq"),
    ">": (">", "gt"),
    "<": ("<", "lt"),
}
#: The operator that a word or sign stands for.
OPERATOR_OF = {word: op for op, words in _OPERATORS.items() for word in words}
#: Keywords that begin a condition.
SUBJECTS = ("src", "dst", "sport", "dport", "dev", "fwmark", "cgroup", "autobound")
_SPECIAL = re.compile(r"[\s\\()!=<>&|]")


def quoted(text: str) -> str:
    """Write text so that it is parsed as a name."""
    if text in WORDS or text in OPERATOR_OF or text in SUBJECTS:
        return "\\" + text
    return _SPECIAL.sub(r"\\\g<0>", text)


class Expression:
    """A filter or a part of one. ``str()`` makes text of it that is parsed to an equal one."""

    def test(self) -> Test:
        """Compile the expression to a function."""
        raise NotImplementedError

    def parts(self) -> Iterator[Expression]:
        """Iterate over the conditions in the expression."""
        yield self


@dataclass
class Chain(Expression):
    """Terms, each joined by ``and`` or ``or`` to all terms before it."""

    first: Expression
    #: Further terms, each with whether ``and`` joins it.
    rest: list[tuple[bool, Expression]]

    def __str__(self) -> str:
        words = [_in_parentheses(self.first)]
        for is_and, term in self.rest:
            words += ["and" if is_and else "or", _in_parentheses(term)]
        return " ".join(words)

    def test(self) -> Test:
        first, rest = self.first.test(), [(is_and, term.test()) for is_and, term in self.rest]

        def test(record: SocketRecord) -> bool:
            value = first(record)
            for is_and, term in rest:
                if value == is_and:
                    value = term(record)
            return value

        return test

    def parts(self) -> Iterator[Expression]:
        for _, term in [(True, self.first), *self.rest]:
            yield from term.parts()


def _in_parentheses(expression: Expression) -> str:
    return f"( {expression} )" if isinstance(expression, Chain) else str(expression)


@dataclass
class Not(Expression):
    """``not`` and a term."""

    term: Expression

    def __str__(self) -> str:
        return f"not {_in_parentheses(self.term)}"

    def test(self) -> Test:
        term = self.term.test()
        return lambda record: not term(record)

    def parts(self) -> Iterator[Expression]:
        return self.term.parts()


@dataclass
class Host(Expression):
    """``src`` or ``dst`` and an address, a port or both."""

    subject: str
    family: str
    #: The address as it was written, ``None`` for any.
    address: str | None
    port: int | str | None
    #: The networks that the address stands for, in the inet families.
    networks: Sequence[Network] = ()

    def __str__(self) -> str:
        family = f"{self.family}:" if self.family else ""
        address = self.address
        if self.family == "unix":
            return f"{self.subject} {family}{quoted(address or '')}"
        if address is None:
            address = "*"
        elif ":" in address:
            address = f"[{address}]"
        port = "" if self.port is None else f":{self.port}"
        return f"{self.subject} {family}{quoted(address + port)}"

    def test(self) -> Test:
        local = self.subject == "src"
        if self.family == "unix":
            return _unix_test(local, self.address or "")
        port, networks = self.port, self.networks
        if self.family in ("", "inet", "inet6"):
            families = _inet_families(self.family)

            def inet(record: SocketRecord) -> bool:
                return (
                    record.family in families
                    and (port is None or port == record.match_port(local))
                    and (not networks or _is_in(record.match_address(local), networks))
                )

            return inet
        family, address = FAMILIES[self.family], c_int(self.address or "")
        name = None if port is None else str(port)

        def other(record: SocketRecord) -> bool:
            if record.family != family:
                return False
            return address in (None, record.match_address(local)) and (
                name is None or name in record.match_services(local)
            )

        return other


def _inet_families(family: str) -> frozenset[int]:
    return frozenset({FAMILIES[family]}) if family else _INET


def families_of(expression: Expression) -> frozenset[int] | None:
    """
    Get the families (``AF_*``) that an expression is about.

    As in ss, an expression that names families with its addresses is about these families:
    ``not src unix:/tmp/*`` shows the other unix sockets, and no TCP.

    :return: ``None`` for all, if the expression names none
    """
    named = {part.family for part in expression.parts() if isinstance(part, (Host, Port))}
    if not named - {""}:
        return None
    return frozenset(af for family in named for af in (_inet_families(family)))


def _is_in(address: object, networks: Iterable[Network]) -> bool:
    return isinstance(address, bytes) and any(network.has(address) for network in networks)


def _unix_test(local: bool, pattern: str) -> Test:
    import fnmatch

    # fnmatch() of C knows [^...], that of Python does not.
    matches = re.compile(
        fnmatch.translate(pattern.replace("[^", "[!")), re.IGNORECASE | re.DOTALL
    ).match

    @functools.lru_cache(4096)
    def is_one(name: bytes | None) -> bool:
        if name is not None and name[:1] == b"\0":
            name = name.replace(b"\0", b"@")
        return matches((name or b"").decode("utf-8", "surrogateescape")) is not None

    def test(record: SocketRecord) -> bool:
        if record.family != AF_UNIX:
            return False
        name = record.match_address(local)
        return not isinstance(name, int) and is_one(name)

    return test


_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "=": int.__eq__,
    "!=": int.__ne__,
    ">=": int.__ge__,
    "<=": int.__le__,
    ">": int.__gt__,
    "<": int.__lt__,
}


@dataclass
class Port(Expression):
    """``sport`` or ``dport`` compared with a port."""

    subject: str
    operator: str
    family: str
    port: int

    def __str__(self) -> str:
        family = f"{self.family}:" if self.family else ""
        return f"{self.subject} {self.operator} {family}:{self.port}"

    def test(self) -> Test:
        local, port = self.subject == "sport", self.port
        # A socket without a port passes != and no other comparison.
        without, compare = self.operator == "!=", _COMPARE[self.operator]
        if self.family in ("", "inet", "inet6"):
            families = _inet_families(self.family)

            def inet(record: SocketRecord) -> bool:
                its_port = record.match_port(local) if record.family in families else None
                return without if its_port is None else compare(its_port, port)

            return inet
        family = FAMILIES[self.family]

        def other(record: SocketRecord) -> bool:
            its_port = record.match_port(local) if record.family == family else None
            return without if its_port is None else compare(its_port, port)

        return other


@dataclass
class Device(Expression):
    """``dev`` and the name or index of the interface that a socket is bound to."""

    device: str
    negated: bool = False

    def __str__(self) -> str:
        return f"dev {'!=' if self.negated else '='} {quoted(self.device)}"

    def test(self) -> Test:
        index = c_int(self.device)
        name = self.device.encode("utf-8", "surrogateescape")
        wanted = not self.negated

        def test(record: SocketRecord) -> bool:
            return (record.ifname == name or record.match_ifindex == index) == wanted

        return test


@dataclass
class Mark(Expression):
    """``fwmark`` and a mark, compared in the bits of a mask."""

    mark: int
    mask: int
    negated: bool = False

    def __str__(self) -> str:
        return f"fwmark {'!=' if self.negated else '='} {self.mark:#x}/{self.mask:#x}"

    def test(self) -> Test:
        mark, mask, wanted = self.mark, self.mask, not self.negated
        # Timewait and request sockets have no sk_mark.
        return lambda record: (getattr(record.sock, "mark", 0) & mask == mark) == wanted


@dataclass
class Cgroup(Expression):
    """``cgroup`` and the path of one, from the root of cgroup2 or of its mount."""

    path: str
    negated: bool = False

    def __str__(self) -> str:
        return f"cgroup {'!=' if self.negated else '='} {quoted(self.path)}"

    def test(self) -> Test:
        path = re.sub("^/sys/fs/cgroup(/unified)?(?=/|$)", "", self.path)
        name = ("/" + path.strip("/")).encode("utf-8", "surrogateescape")
        wanted = not self.negated
        return lambda record: (sock_cgroup_path(record.prog, record.sock) == name) == wanted


@dataclass
class Autobound(Expression):
    """``autobound``: the kernel chose the port or name of this end."""

    def __str__(self) -> str:
        return "autobound"

    def test(self) -> Test:
        return lambda record: record.is_autobound
