# SPDX-License-Identifier: LGPL-2.1-or-later
r"""
Filter expressions of ``ss``: parsed into a tree, and compiled to one function of a record.

The grammar is that of iproute2's ``misc/ssfilter.y``::

    expression:  term { [ and | & | && | or | '|' | '||' ] term }
    term:        ( expression ) | not term | ! term | condition
    condition:   src | dst          [=] HOST
                 sport | dport      [OP] PORT       OP: = == eq, != ne neq, >= ge geq,
                 dev                [OP] DEVICE         <= le leq, > gt, < lt
                 fwmark             [OP] MARK[/MASK]
                 cgroup             [OP] PATH
                 autobound
    HOST:        [FAMILY:] ADDRESS [:PORT]
    FAMILY:      inet, inet6, unix, link, netlink, vsock

``and`` and ``or`` apply from left to right, the one like the other, and terms with nothing
between them are joined by ``and``: that is what ss does, whatever its manual says. A backslash
takes the special meaning of the character after it.

Beyond ss: no spaces are needed around operators and inside parentheses, and ``src`` and ``dst``
know ``!=``. Other than ss, nothing is asked of DNS: a HOST is an address, or a name in
``/etc/hosts``.
"""

from __future__ import annotations

import functools
import re
from _socket import inet_pton  # as in records.socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from drgn_sockets.errors import UserError, nearest
from drgn_sockets.kernel.cgroup import sock_cgroup_path
from drgn_sockets.kernel.net import ip_local_port_range
from drgn_sockets.kernel.sock import AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX
from drgn_sockets.named_tuple import NamedTuple
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.families.netlink import PROTOCOLS as NETLINK_PROTOCOLS
from drgn_sockets.records.families.netlink import NetlinkRecord
from drgn_sockets.records.families.packet import PROTOCOLS as ETHER_PROTOCOLS
from drgn_sockets.records.families.packet import PacketRecord
from drgn_sockets.records.families.unix import UnixRecord
from drgn_sockets.records.socket import SocketRecord

#: What a compiled filter is.
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

# include/net/sock.h
_SOCK_BINDPORT_LOCK = 8
# include/net/af_vsock.h: LAST_RESERVED_PORT.
_LAST_RESERVED_VSOCK_PORT = 1023
# unix_autobind()
_UNIX_AUTOBOUND = re.compile(rb"\0[0-9a-f]{5}")

_WORDS = {"!": "not", "&": "and", "&&": "and", "|": "or", "||": "or"}
_WORDS.update({word: word for word in ("not", "and", "or")})
_OPERATORS = {
    "=": ("=", "==", "eq"),
    "!=": ("!=", "ne", "neq"),
    ">=": (">=", "ge", "geq"),
    "<=": ("<=", "le", "leq"),
    ">": (">", "gt"),
    "<": ("<", "lt"),
}
_OPERATOR_OF = {word: op for op, words in _OPERATORS.items() for word in words}
_SUBJECTS = ("src", "dst", "sport", "dport", "dev", "fwmark", "cgroup", "autobound")
# So that no expression takes more of Python's stack than there is.
_MAX_DEPTH = 100

_TOKEN = re.compile(
    r"\s*(?:(?P<sign>[()]|!=?|==?|>=?|<=?|&&?|\|\|?)|(?P<word>(?:\\.|[^\s\\])+\\?|\\))",
    re.DOTALL,
)
_SUBJECT_AND_SIGN = re.compile(r"(?:src|dst|[sd]port|dev|fwmark|cgroup)(?=[=!<>])")
_SPECIAL = re.compile(r"[\s\\()!=<>&|]")


class Token(NamedTuple):
    """A word or sign of an expression."""

    #: Without backslashes.
    text: str
    #: Where each character of it stands in the expression.
    places: Sequence[int]
    #: Whether it is what it says: no backslash makes a keyword a name.
    plain: bool


def _tokens(source: str) -> Iterator[Token]:
    place = 0
    while match := _TOKEN.match(source, place):
        start, place = match.span(match.lastgroup or 0)
        if match["sign"]:
            yield Token(match["sign"], range(start, place), True)
            continue
        word = match["word"]
        subject = _SUBJECT_AND_SIGN.match(word)
        if subject:
            place = start + subject.end()
        else:
            place -= _closing(word)
        yield _unescaped(source[start:place], start)


def _closing(word: str) -> int:
    """How many of the last characters of a word are no part of it: one of "x)", none of "x(1)"."""
    bare = re.sub(r"\\.", "_", word, flags=re.DOTALL)
    closing = len(bare) - len(bare.rstrip(")"))
    return min(closing, max(bare.count(")") - bare.count("("), 0))


def _unescaped(word: str, start: int) -> Token:
    text, places, i = "", [], 0
    while i < len(word):
        if word[i] == "\\" and i + 1 < len(word):
            i += 1
        text += word[i]
        places.append(start + i)
        i += 1
    return Token(text, places, "\\" not in word)


def _quoted(text: str) -> str:
    if text in _WORDS or text in _OPERATOR_OF or text in _SUBJECTS:
        return "\\" + text
    return _SPECIAL.sub(r"\\\g<0>", text)


class Expression:
    """A filter, or a part of one; as text it is an expression that is parsed to the same."""

    def test(self) -> Test:
        """Compile it."""
        raise NotImplementedError

    def parts(self) -> Iterator[Expression]:
        """The conditions in it."""
        yield self


@dataclass
class Chain(Expression):
    """Terms, each joined to all that is before it by ``and`` or ``or``."""

    first: Expression
    #: Whether by ``and``, and the term.
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
    """The opposite."""

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
    #: What stands for the address, ``None`` for any.
    address: str | None
    port: int | str | None
    #: What it means: networks, for the inet families.
    networks: Sequence[Network] = ()

    def __str__(self) -> str:
        family = f"{self.family}:" if self.family else ""
        address = self.address
        if self.family == "unix":
            return f"{self.subject} {family}{_quoted(address or '')}"
        if address is None:
            address = "*"
        elif ":" in address:
            address = f"[{address}]"
        port = "" if self.port is None else f":{self.port}"
        return f"{self.subject} {family}{_quoted(address + port)}"

    def test(self) -> Test:
        local = self.subject == "src"
        if self.family == "unix":
            return _unix_test(local, self.address or "")
        port, networks = self.port, self.networks
        if self.family in ("", "inet", "inet6"):
            families = _inet_families(self.family)

            def inet(record: SocketRecord) -> bool:
                return (
                    isinstance(record, InetRecord)
                    and record.family in families
                    and (port is None or port == _inet_port(record, local))
                    and (not networks or _is_in(_inet_address(record, local), networks))
                )

            return inet
        family, address = FAMILIES[self.family], _c_int(self.address or "")
        name = None if port is None else str(port)

        def other(record: SocketRecord) -> bool:
            if record.family != family:
                return False
            its_address, its_ports = _end(record, local)
            return address in (None, its_address) and (name is None or name in its_ports)

        return other


def _inet_families(family: str) -> frozenset[int]:
    return frozenset({FAMILIES[family]}) if family else _INET


def families_of(expression: Expression) -> frozenset[int] | None:
    """
    Families (``AF_*``) that an expression is about.

    As in ss, one that names families with its addresses is about these: ``not src unix:/tmp/*``
    shows the other unix sockets, and no TCP.

    :return: ``None`` for all, if it names none
    """
    named = {part.family for part in expression.parts() if isinstance(part, (Host, Port))}
    if not named - {""}:
        return None
    return frozenset(af for family in named for af in (_inet_families(family)))


class Network(NamedTuple):
    """The addresses that begin as one does."""

    family: int
    #: How many of the last bits are not compared.
    shift: int
    #: The others.
    prefix: int


_V4_BITS = 32
_V4_MAPPED = 0xFFFF


def _network(family: int, address: bytes, length: int) -> Network:
    shift = len(address) * 8 - length
    return Network(family, shift, int.from_bytes(address, "big") >> shift)


def _is_in(address: bytes, networks: Iterable[Network]) -> bool:
    family = AF_INET if len(address) == 4 else AF_INET6
    number = int.from_bytes(address, "big")
    for network in networks:
        if network.family == family:
            if number >> network.shift == network.prefix:
                return True
        # An IPv4 address is also that of an IPv6 socket which is connected by IPv4.
        elif (
            family == AF_INET6
            and number >> _V4_BITS == _V4_MAPPED
            and (number & (1 << _V4_BITS) - 1) >> network.shift == network.prefix
        ):
            return True
    return False


def _inet_address(record: InetRecord, local: bool) -> bytes:
    sock = record.sock
    if sock.family == AF_INET6:
        v6: bytes | None = sock.v6_rcv_saddr if local else sock.v6_daddr
        if v6 is not None:
            return v6
    return sock.rcv_saddr if local else sock.daddr  # type: ignore[no-any-return]


def _inet_port(record: InetRecord, local: bool) -> int:
    return record.local_port if local else record.remote_port  # type: ignore[no-any-return]


_ANY = 0xFFFFFFFF


def _end(record: SocketRecord, local: bool) -> tuple[int | None, set[str]]:
    """
    An end of a socket of another family: what its address is as a number, and all that its port
    goes by.
    """
    end = record.local_end() if local else record.remote_end()
    if end is None:
        return None, set()
    address, port = (text.decode("utf-8", "surrogateescape") for text in end.numbers or end[:2])
    if isinstance(record, NetlinkRecord):
        return record.protocol, {port}
    if isinstance(record, PacketRecord):
        return record.sock.ethertype, {port, str(record.sock.ifindex)}
    return _ANY if address == "*" else _c_int(address), {port}


def _end_number(record: SocketRecord, local: bool) -> int | None:
    """The port of such an end, if it is a number."""
    for text in _end(record, local)[1]:
        if re.fullmatch("-?[0-9]+", text):
            return int(text)
    return None


def _unix_test(local: bool, pattern: str) -> Test:
    import fnmatch

    # Python's has no [^...].
    matches = re.compile(
        fnmatch.translate(pattern.replace("[^", "[!")), re.IGNORECASE | re.DOTALL
    ).match

    @functools.lru_cache(4096)
    def is_one(name: bytes | None) -> bool:
        if name is not None and name[:1] == b"\0":
            name = name.replace(b"\0", b"@")
        return matches((name or b"").decode("utf-8", "surrogateescape")) is not None

    def test(record: SocketRecord) -> bool:
        return isinstance(record, UnixRecord) and is_one(record.name if local else record.peer_name)

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
        # A socket that has no port has not this one, and none that is greater or less.
        without, compare = self.operator == "!=", _COMPARE[self.operator]
        if self.family in ("", "inet", "inet6"):
            families = _inet_families(self.family)

            def inet(record: SocketRecord) -> bool:
                if not isinstance(record, InetRecord) or record.family not in families:
                    return without
                return compare(_inet_port(record, local), port)

            return inet
        family = FAMILIES[self.family]

        def other(record: SocketRecord) -> bool:
            its_port = _end_number(record, local) if record.family == family else None
            return without if its_port is None else compare(its_port, port)

        return other


@dataclass
class Device(Expression):
    """``dev`` and the name or index of the interface that a socket is bound to."""

    device: str
    negated: bool = False

    def __str__(self) -> str:
        return f"dev {'!=' if self.negated else '='} {_quoted(self.device)}"

    def test(self) -> Test:
        index = _c_int(self.device)
        name = self.device.encode("utf-8", "surrogateescape")
        wanted = not self.negated

        def test(record: SocketRecord) -> bool:
            its_index = record.sock.bound_dev_if
            if isinstance(record, PacketRecord):
                its_index = record.sock.ifindex
            return (record.ifname == name or its_index == index) == wanted

        return test


@dataclass
class Mark(Expression):
    """``fwmark`` and a mark, of the bits of a mask."""

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
        return f"cgroup {'!=' if self.negated else '='} {_quoted(self.path)}"

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
        return _is_autobound


def _is_autobound(record: SocketRecord) -> bool:
    if isinstance(record, InetRecord):
        # As ss has it: none that bind() was asked for, and none that a service has either, as the
        # port of a connection that was accepted.
        low, high = ip_local_port_range(record.prog, record.sock.net)
        locks = getattr(record.sock, "userlocks", 0)
        return low <= record.local_port <= high and not locks & _SOCK_BINDPORT_LOCK
    if isinstance(record, UnixRecord):
        return record.name is None or _UNIX_AUTOBOUND.fullmatch(record.name) is not None
    if isinstance(record, PacketRecord):
        return not record.sock.ethertype and not record.sock.ifindex
    number = _end_number(record, True)
    if isinstance(record, NetlinkRecord):
        # netlink_autobind() takes one of these if that of the process is in use.
        return number is not None and number < 0
    return record.family == _AF_VSOCK and (number or 0) > _LAST_RESERVED_VSOCK_PORT


def _c_int(text: str) -> int | None:
    """A number as C writes it: ``22``, ``0x16``, ``026``."""
    if re.fullmatch("0[xX][0-9a-fA-F]+", text, re.ASCII):
        return int(text, 16)
    if re.fullmatch("0[0-7]+", text):
        return int(text, 8)
    # More digits than any that there is.
    return int(text) if re.fullmatch("[1-9][0-9]{0,18}|0", text) else None


class Filter(NamedTuple):
    """What a command line says of the sockets to show."""

    #: ``("state" or "exclude", name)``, in their order.
    states: Sequence[tuple[str, Token]]
    #: What comes after these, if anything.
    expression: Expression | None
    #: As it was given.
    source: str

    def families(self) -> frozenset[int] | None:
        """:func:`families_of` its expression."""
        return families_of(self.expression) if self.expression is not None else None

    def wrong(self, message: str, place: int) -> UserError:
        """An error at a place of the source."""
        return _error(self.source, message, place)


def _error(source: str, message: str, place: int) -> UserError:
    # What a terminal shows in another width than that of its characters would move the caret.
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in source)
    caret = " " * min(place, max(len(source) - 1, 0)) + "^"
    return UserError(f"filter: {message}", f"  {shown}", f"  {caret}")


def parse(source: str, family: str = "", services: Sequence[str] = ("udp", "tcp")) -> Filter:
    """
    Parse what ``ss`` takes after its options: states, and an expression.

    :param source: The words, with spaces between them.
    :param family: Of :data:`FAMILIES`, what an address without a family is of; if empty, it is
        of ``inet`` or ``inet6``.
    :param services: Protocols whose names of ports are known.
    :raises UserError: if it is no expression; a line below shows the place
    """
    return _Parser(source, family, services).filter()


class _Parser:
    def __init__(self, source: str, family: str, services: Sequence[str]) -> None:
        self._source = source
        self._family = family
        self._services = services
        self._tokens = list(_tokens(source))
        self._next = 0
        self._depth = 0

    def _fail(self, message: str, token: Token, at: int = 0) -> NoReturn:
        """Complain about a character of a token."""
        raise _error(self._source, message, token.places[min(at, len(token.places) - 1)])

    def _missing(self, what: str, token: Token) -> NoReturn:
        """Complain that nothing comes after a token."""
        self._fail(f"expected {what} after {_shown(token.text)}", token, len(token.text))

    def _peek(self) -> Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _keyword(self, names: Any) -> str | None:
        """The next token if it is one of these words."""
        token = self._peek()
        return token.text if token is not None and token.plain and token.text in names else None

    def filter(self) -> Filter:
        states = []
        while keyword := self._keyword(("state", "exclude", "excl")):
            states.append(("state" if keyword == "state" else "exclude", self._state()))
        expression = None
        if self._peek() is not None:
            expression = self._expression()
            extra = self._peek()
            if extra is not None:
                self._fail("nothing is open that this could close", extra)
        return Filter(states, expression, self._source)

    def _state(self) -> Token:
        keyword = self._tokens[self._next]
        self._next += 1
        token = self._peek()
        if token is None:
            self._missing("a state", keyword)
        self._next += 1
        return token

    def _expression(self) -> Expression:
        first = self._term()
        rest: list[tuple[bool, Expression]] = []
        while (token := self._peek()) is not None and not (token.plain and token.text == ")"):
            word = _WORDS.get(self._keyword(_WORDS) or "")
            if word in ("and", "or"):
                self._next += 1
                if self._peek() is None:
                    self._missing("a condition", token)
            rest.append((word != "or", self._term()))
        return Chain(first, rest) if rest else first

    def _term(self) -> Expression:
        token = self._peek()
        assert token is not None
        if self._depth >= _MAX_DEPTH:
            self._fail("too many parentheses and negations inside each other", token)
        self._next += 1
        self._depth += 1
        try:
            if token.plain and token.text == "(":
                return self._parenthesized(token)
            if token.plain and _WORDS.get(token.text) == "not":
                if self._peek() is None:
                    self._missing("a condition", token)
                return Not(self._term())
        finally:
            self._depth -= 1
        return self._condition(token)

    def _parenthesized(self, opening: Token) -> Expression:
        if self._peek() is None:
            self._missing("a condition", opening)
        found = self._expression()
        if self._peek() is None:
            self._fail('"(" is never closed', opening)
        self._next += 1
        return found

    def _condition(self, token: Token) -> Expression:
        subject = token.text
        if not token.plain or subject not in _SUBJECTS:
            if token.plain and subject in ("state", "exclude", "excl"):
                self._fail(f'"{subject}" comes before all conditions', token)
            near = nearest(subject, _SUBJECTS)
            self._fail(f"expected one of {', '.join(_SUBJECTS)}{near}", token)
        if subject == "autobound":
            return Autobound()
        operator = "="
        last = token
        if word := self._keyword(_OPERATOR_OF):
            operator = _OPERATOR_OF[word]
            last = self._tokens[self._next]
            if operator not in ("=", "!=") and subject not in ("sport", "dport"):
                self._fail(f'{subject} knows just "=" and "!="', last)
            self._next += 1
        operand = self._operand(subject, last)
        negated = operator == "!="
        if subject in ("sport", "dport"):
            return self._port_condition(subject, operator, operand)
        if subject == "dev":
            return Device(operand.text, negated)
        if subject == "fwmark":
            return self._mark(operand, negated)
        if subject == "cgroup":
            return Cgroup(operand.text, negated)
        host = self._host(subject, operand)
        return Not(host) if negated else host

    def _operand(self, subject: str, last: Token) -> Token:
        kind = _OPERANDS[subject]
        token = self._peek()
        if token is None:
            self._missing(kind, last)
        text = token.text
        if token.plain and (
            text in "()" or text in _WORDS or text in _OPERATOR_OF or text in _SUBJECTS
        ):
            self._fail(f"expected {kind}, not {_shown(text)}", token)
        self._next += 1
        return token

    def _with_family(self, token: Token, family: str) -> tuple[str, str, int]:
        """Family, and what comes after it and where in the token."""
        name, colon, rest = token.text.partition(":")
        if colon and name in FAMILIES:
            return name, rest, len(name) + 1
        return family, token.text, 0

    def _port_condition(self, subject: str, operator: str, token: Token) -> Expression:
        # Unix sockets have none.
        family = "" if self._family == "unix" else self._family
        family, text, at = self._with_family(token, family)
        if family == "unix":
            self._fail("unix sockets have no ports", token)
        if text[:1] == ":":
            text, at = text[1:], at + 1
            if not text:
                self._fail('expected a port after ":"', token, at - 1)
        elif not text:
            self._fail(f"expected a port after {_shown(token.text)}", token, at - 1)
        port = self._port(family, text, token, at)
        if isinstance(port, int):
            return Port(subject, operator, family, port)
        # The name of an interface, or any port.
        if operator not in ("=", "!="):
            self._fail(f"{subject} {operator} wants a number", token, at)
        found = Host("src" if subject == "sport" else "dst", family, None, port)
        return Not(found) if operator == "!=" else found

    def _port(self, family: str, text: str, token: Token, at: int) -> int | str | None:
        """A port: a number; a name, of an interface; ``None`` for any."""
        if text == "*":
            return None
        number = _c_int(text.lstrip("-") if family == "netlink" else text)
        if family == "netlink":
            if text == "kernel":
                return 0
            if number is None:
                self._fail('expected the number of a port, or "kernel"', token, at)
            return -number if text[0] == "-" else number
        if family == "link":
            return text if number is None else number
        if number is None:
            if family == "vsock":
                self._fail("expected the number of a port", token, at)
            number = self._service(text, token, at)
        elif number > (0xFFFFFFFF if family == "vsock" else 0xFFFF):
            self._fail(f"there is no port {text}", token, at)
        return number

    def _service(self, name: str, token: Token, at: int) -> int:
        # What it needs is needed for names only.
        import socket

        found = {}
        for protocol in self._services:
            try:
                found[protocol] = socket.getservbyname(name, protocol)
            except (OSError, ValueError):
                # No such service, or bytes that no name has.
                pass
        if not found:
            self._fail(
                f"expected a port, a number or a name in /etc/services: {_shown(name)}",
                token,
                at,
            )
        if len(set(found.values())) > 1:
            ports = " and ".join(f"{port}/{protocol}" for protocol, port in found.items())
            self._fail(f"{name} is {ports}; give the number", token, at)
        return min(found.values())

    def _mark(self, token: Token, negated: bool) -> Expression:
        text, slash, mask_text = token.text.partition("/")
        mark, mask = _c_int(text), _c_int(mask_text) if slash else 0xFFFFFFFF
        if mark is None or mask is None or max(mark, mask) > 0xFFFFFFFF:
            at = len(text) + 1 if mark is not None and mark <= 0xFFFFFFFF else 0
            self._fail("expected MARK or MARK/MASK, numbers of 32 bits", token, at)
        return Mark(mark, mask, negated)

    def _host(self, subject: str, token: Token) -> Expression:
        family, text, at = self._with_family(token, self._family)
        if family == "unix":
            return Host(subject, family, text, None)
        if not text:
            self._fail(f"expected an address or a port after {_shown(token.text)}", token, at - 1)
        if family in ("link", "netlink", "vsock"):
            return self._other_host(subject, family, text, token, at)
        address, port_at = self._split(text, token, at)
        port = None
        if port_at is not None:
            if port_at == len(text):
                self._fail('expected a port after ":"', token, at + port_at - 1)
            port = self._port(family, text[port_at:], token, at + port_at)
        if address in ("", "*", "any", "all", "default"):
            return Host(subject, family, None, port)
        start = at + (text[0] == "[")
        networks = self._networks(family, address, token, start)
        return Host(subject, family, address, port, networks)

    def _split(self, text: str, token: Token, at: int) -> tuple[str, int | None]:
        """An address, and where the port after it is."""
        if text[0] == "[":
            end = text.find("]")
            if end < 0:
                self._fail('"[" is never closed', token, at)
            rest = text[end + 1 :]
            # "[::1]/64" is as good as "[::1/64]".
            length = re.match("/[^:]*", rest)
            address = text[1:end] + (length[0] if length else "")
            after = end + 1 + (length.end() if length else 0)
        else:
            slash = text.find("/")
            colon = text.rfind(":", max(slash, 0))
            if slash < 0 and text.count(":") > 1:
                self._fail("an IPv6 address is written in [ ]", token, at)
            address, after = (text, len(text)) if colon < 0 else (text[:colon], colon)
        if after == len(text):
            return address, None
        if text[after] != ":":
            self._fail('expected ":" and a port, or nothing', token, at + after)
        return address, after + 1

    def _networks(self, family: str, text: str, token: Token, at: int) -> list[Network]:
        """What a host stands for."""
        address, slash, length_text = text.partition("/")
        addresses = list(_addresses(address, family))
        if not addresses:
            kind = {"inet": "an IPv4 address", "inet6": "an IPv6 address"}.get(family, "an address")
            if text[:1] in ("/", "@"):
                self._fail(f"expected {kind}; the name of a unix socket is unix:NAME", token, at)
            self._fail(
                f"expected {kind} or a name in /etc/hosts, DNS is not asked: {_shown(address)}",
                token,
                at,
            )
        found = []
        for af, packed in addresses:
            bits = len(packed) * 8
            length = _prefix_length(length_text) if slash else bits
            if length is None or length > bits:
                self._fail(
                    f"expected a prefix length of at most {bits}", token, at + len(address) + 1
                )
            found.append(_network(af, packed, length))
        return found

    def _other_host(
        self, subject: str, family: str, text: str, token: Token, at: int
    ) -> Expression:
        address, colon, port_text = text.partition(":")
        port = None
        if colon:
            if not port_text:
                self._fail('expected a port after ":"', token, at + len(address))
            port = self._port(family, port_text, token, at + len(address) + 1)
        if address in ("", "*"):
            return Host(subject, family, None, port)
        number = _c_int(address)
        if family == "vsock":
            if number is None or number > _ANY:
                self._fail("expected the number of a CID", token, at)
        elif number is None:
            names = _PROTOCOLS[family]
            number = names.get(address.lower())
            if number is None:
                near = nearest(address, names)
                self._fail(f"no {family} protocol {_shown(address)}{near}", token, at)
        return Host(subject, family, str(number), port)


_PROTOCOLS = {
    "netlink": {name: number for number, name in NETLINK_PROTOCOLS.items()},
    "link": {name.lower(): number for number, name in ETHER_PROTOCOLS.items()},
}


_OPERANDS = {
    "src": "a host",
    "dst": "a host",
    "sport": "a port",
    "dport": "a port",
    "dev": "a device",
    "fwmark": "a mark",
    "cgroup": "the path of a cgroup",
}


def _shown(text: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return f'"{printable}"'


def _prefix_length(text: str) -> int | None:
    """``24``, or ``255.255.255.0``."""
    if "." not in text:
        return _c_int(text)
    mask = _ipv4(text)
    if mask is None:
        return None
    bits = f"{int.from_bytes(mask, 'big'):032b}"
    return bits.count("1") if "01" not in bits else None


def _ipv4(text: str) -> bytes | None:
    """An IPv4 address or the beginning of one, as ``get_addr_ipv4()`` of iproute2 takes it."""
    numbers = [_c_int(part) for part in text.split(".")]
    if len(numbers) > 4 or any(number is None or number > 255 for number in numbers):
        return None
    return bytes(number or 0 for number in numbers).ljust(4, b"\0")


def _addresses(text: str, family: str) -> Iterator[tuple[int, bytes]]:
    """The addresses of a host, each with its ``AF_*``."""
    if ":" in text:
        if family != "inet":
            try:
                yield AF_INET6, inet_pton(AF_INET6, text)
            except (OSError, ValueError):
                pass
        return
    if re.match("[0-9]", text):
        v4 = _ipv4(text)
        if v4 is not None and family != "inet6":
            yield AF_INET, v4
        return
    wanted = {AF_INET, AF_INET6} if not family else {FAMILIES[family]}
    for address in _hosts().get(text.lower(), ()):
        af = AF_INET if len(address) == 4 else AF_INET6
        if af in wanted:
            yield af, address


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
