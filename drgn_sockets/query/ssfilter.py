# SPDX-License-Identifier: LGPL-2.1-or-later
r"""
The grammar of ``ss`` filters, as in iproute2's ``misc/ssfilter.y``. What it parses is a tree of
:mod:`drgn_sockets.query.ssfilter_tree`::

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

``and`` and ``or`` have the same precedence and apply from left to right. Terms with nothing
between them are joined by ``and``. (The manual of ss says otherwise, but its code does this.)
A backslash takes the special meaning from the character after it.

Two things are allowed that ss refuses: spaces may be left out around operators and inside
parentheses, and ``src`` and ``dst`` know ``!=``. One thing differs: a HOST is an address or a
name in ``/etc/hosts``, because DNS is not asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from drgn_sockets.errors import UserError, nearest
from drgn_sockets.query.hosts import (
    Network,
    addresses_of,
    c_int,
    port_number,
    prefix_length,
    shown,
)
from drgn_sockets.query.ssfilter_tree import (
    FAMILIES,
    OPERATOR_OF,
    SUBJECTS,
    WORDS,
    Autobound,
    Cgroup,
    Chain,
    Device,
    Expression,
    Host,
    Mark,
    Not,
    Port,
    families_of,
)
from drgn_sockets.records.families.netlink import PROTOCOLS as NETLINK_PROTOCOLS
from drgn_sockets.records.families.packet import PROTOCOLS as ETHER_PROTOCOLS
from drgn_sockets.records.socket import ANY

# A deeper expression might overflow Python's stack.
_MAX_DEPTH = 100

_TOKEN = re.compile(
    r"\s*(?:(?P<sign>[()]|!=?|==?|>=?|<=?|&&?|\|\|?)|(?P<word>(?:\\.|[^\s\\])+\\?|\\))",
    re.DOTALL,
)
_SUBJECT_AND_SIGN = re.compile(r"(?:src|dst|[sd]port|dev|fwmark|cgroup)(?=[=!<>])")


class Token(NamedTuple):
    """A word or sign of an expression."""

    #: Without backslashes.
    text: str
    #: Where each character of the text stands in the expression.
    places: Sequence[int]
    #: Whether there is no backslash in it: with one, a keyword is a name.
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
    """Count the parentheses that end a word and belong to no "(" in it: 1 in "x)", 0 in "x(1)"."""
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


class Filter(NamedTuple):
    """The filter of a command line: which sockets to show."""

    #: ``("state" or "exclude", name)``, in their order.
    states: Sequence[tuple[str, Token]]
    #: The expression after the states, if there is one.
    expression: Expression | None
    #: The whole filter as it was given.
    source: str

    def families(self) -> frozenset[int] | None:
        """Get the families that the expression is about, see :func:`families_of`."""
        return families_of(self.expression) if self.expression is not None else None

    def wrong(self, message: str, place: int) -> UserError:
        """Make an error at a place of the source."""
        return _error(self.source, message, place)


def _error(source: str, message: str, place: int) -> UserError:
    # Characters that a terminal does not show in one column would move the caret.
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in source)
    caret = " " * min(place, max(len(source) - 1, 0)) + "^"
    return UserError(f"filter: {message}", f"  {shown}", f"  {caret}")


def parse(source: str, family: str = "", services: Sequence[str] = ("udp", "tcp")) -> Filter:
    """
    Parse what ``ss`` takes after its options: states, and an expression.

    :param source: The words, with spaces between them.
    :param family: Family of an address that names none, one of :data:`FAMILIES`; if empty,
        ``inet`` and ``inet6``
    :param services: Protocols whose names of ports are known
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
        self._fail(f"expected {what} after {shown(token.text)}", token, len(token.text))

    def _peek(self) -> Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _keyword(self, names: Any) -> str | None:
        """Get the next token if it is one of these words."""
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
            word = WORDS.get(self._keyword(WORDS) or "")
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
            if token.plain and WORDS.get(token.text) == "not":
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
        if not token.plain or subject not in SUBJECTS:
            if token.plain and subject in ("state", "exclude", "excl"):
                self._fail(f'"{subject}" comes before all conditions', token)
            near = nearest(subject, SUBJECTS)
            self._fail(f"expected one of {', '.join(SUBJECTS)}{near}", token)
        if subject == "autobound":
            return Autobound()
        operator = "="
        last = token
        if word := self._keyword(OPERATOR_OF):
            operator = OPERATOR_OF[word]
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
            text in "()" or text in WORDS or text in OPERATOR_OF or text in SUBJECTS
        ):
            self._fail(f"expected {kind}, not {shown(text)}", token)
        self._next += 1
        return token

    def _with_family(self, token: Token, family: str) -> tuple[str, str, int]:
        """Split a token into its family, the text after that, and where this begins."""
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
            self._fail(f"expected a port after {shown(token.text)}", token, at - 1)
        port = self._port(family, text, token, at)
        if isinstance(port, int):
            return Port(subject, operator, family, port)
        # The name of an interface, or any port.
        if operator not in ("=", "!="):
            self._fail(f"{subject} {operator} wants a number", token, at)
        found = Host("src" if subject == "sport" else "dst", family, None, port)
        return Not(found) if operator == "!=" else found

    def _port(self, family: str, text: str, token: Token, at: int) -> int | str | None:
        """Parse a port: a number, the name of an interface (``link``), or ``None`` for any."""
        if text == "*":
            return None
        number = c_int(text.lstrip("-") if family == "netlink" else text)
        if family == "netlink":
            if text == "kernel":
                return 0
            if number is None:
                self._fail('expected the number of a port, or "kernel"', token, at)
            return -number if text[0] == "-" else number
        if family == "link":
            return text if number is None else number
        if number is None and family == "vsock":
            self._fail("expected the number of a port", token, at)
        try:
            return port_number(text, self._services, 0xFFFFFFFF if family == "vsock" else 0xFFFF)
        except ValueError as e:
            self._fail(str(e), token, at)

    def _mark(self, token: Token, negated: bool) -> Expression:
        text, slash, mask_text = token.text.partition("/")
        mark, mask = c_int(text), c_int(mask_text) if slash else 0xFFFFFFFF
        if mark is None or mask is None or max(mark, mask) > 0xFFFFFFFF:
            at = len(text) + 1 if mark is not None and mark <= 0xFFFFFFFF else 0
            self._fail("expected MARK or MARK/MASK, numbers of 32 bits", token, at)
        return Mark(mark, mask, negated)

    def _host(self, subject: str, token: Token) -> Expression:
        family, text, at = self._with_family(token, self._family)
        if family == "unix":
            return Host(subject, family, text, None)
        if not text:
            self._fail(f"expected an address or a port after {shown(token.text)}", token, at - 1)
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
        """Split text into an address and where its port begins, ``None`` if it has none."""
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
        """Find the networks that a host stands for."""
        address, slash, length_text = text.partition("/")
        addresses = list(addresses_of(address, family))
        if not addresses:
            kind = {"inet": "an IPv4 address", "inet6": "an IPv6 address"}.get(family, "an address")
            if text[:1] in ("/", "@"):
                self._fail(f"expected {kind}; the name of a unix socket is unix:NAME", token, at)
            self._fail(
                f"expected {kind} or a name in /etc/hosts, DNS is not asked: {shown(address)}",
                token,
                at,
            )
        found = []
        for packed in addresses:
            bits = len(packed) * 8
            length = prefix_length(length_text) if slash else bits
            if length is None or length > bits:
                self._fail(
                    f"expected a prefix length of at most {bits}", token, at + len(address) + 1
                )
            found.append(Network.of(packed, length))
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
        number = c_int(address)
        if family == "vsock":
            if number is None or number > ANY:
                self._fail("expected the number of a CID", token, at)
        elif number is None:
            names = _PROTOCOLS[family]
            number = names.get(address.lower())
            if number is None:
                near = nearest(address, names)
                self._fail(f"no {family} protocol {shown(address)}{near}", token, at)
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
