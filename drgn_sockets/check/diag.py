# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernel memory against sock_diag: each message, each attribute, each member of it.

A reply is matched with its socket by the cookie, which a dump gives to every socket that it
tells of. A live kernel is asked before memory is read and after it, as procfs is (see
:mod:`drgn_sockets.check.compare`); what was saved is of a moment before its core.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from drgn import FaultError, Program

from drgn_sockets.check import sock_diag
from drgn_sockets.check.compare import Mismatch, Result
from drgn_sockets.check.sock_diag import Reply, Unanswered
from drgn_sockets.errors import UserError
from drgn_sockets.kernel.inet_bhash import for_each_bound_tcp
from drgn_sockets.kernel.net import net_namespaces, task_net
from drgn_sockets.kernel.sock import IPPROTO_TCP
from drgn_sockets.kernel.task import Tasks
from drgn_sockets.kernel.timekeeping import clock
from drgn_sockets.records.families.tcp import TcpSockRecord
from drgn_sockets.records.holders import Holders
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.names import address_family_name
from drgn_sockets.records.reader import for_each_socket
from drgn_sockets.records.socket import AnySocket, SocketRecord, UnreadableSocket
from drgn_sockets.text import escape
from drgn_sockets.views.diag import KINDS, Diag, DiagKind, Message, diag_of
from drgn_sockets.views.diag.forms import Form, Value, nla_parse

# As in compare.
_TRIES = 8
# By how much clocks that are read one after the other may be off: some ticks.
_SLACK_S = 0.1


class ClockMember(NamedTuple):
    """A member that names a moment: two looks never see the same."""

    #: 1 if it grows as time goes by, -1 for a countdown, which ends at 0.
    direction: int
    #: How many of its units are a second.
    per_s: int
    #: By how many seconds it may be off.
    slack_s: float = _SLACK_S


#: All members that name a moment, by structure and name. Whatever else there is has to be equal.
MOMENTS: dict[tuple[str, str], ClockMember] = {
    ("struct inet_diag_msg", "idiag_expires"): ClockMember(-1, 1000),
    ("struct tcp_info", "tcpi_last_data_sent"): ClockMember(1, 1000),
    ("struct tcp_info", "tcpi_last_data_recv"): ClockMember(1, 1000),
    ("struct tcp_info", "tcpi_last_ack_recv"): ClockMember(1, 1000),
    # These three while the connection is busy.
    ("struct tcp_info", "tcpi_busy_time"): ClockMember(1, 1_000_000),
    ("struct tcp_info", "tcpi_rwnd_limited"): ClockMember(1, 1_000_000),
    ("struct tcp_info", "tcpi_sndbuf_limited"): ClockMember(1, 1_000_000),
    ("struct mptcp_info", "mptcpi_last_data_sent"): ClockMember(1, 1000),
    ("struct mptcp_info", "mptcpi_last_data_recv"): ClockMember(1, 1000),
    ("struct mptcp_info", "mptcpi_last_ack_recv"): ClockMember(1, 1000),
    # While it recovers from a timeout. It is counted by a clock that starts a little before
    # jiffies do.
    ("struct tcp_info", "tcpi_total_rto_time"): ClockMember(1, 1000, 1.0),
}

# What grows while nobody does anything: a raw socket whose queue is full drops its copies of what
# TCP sends once more; and SCTP sends heartbeats.
_COUNTS = frozenset(
    {
        ("SK_MEMINFO", "DROPS"),
        *(("struct sctp_info", f"sctpi_{name}") for name in ("opackets", "ipackets")),
        *(("struct sctp_info", f"sctpi_{name}") for name in ("octrlchunks", "ictrlchunks")),
    }
)
# What these measure.
_MEASURED = frozenset({("struct sctp_info", "sctpi_p_srtt"), ("struct sctp_info", "sctpi_p_rto")})

# A timer that may be started anew while nobody does anything: time-wait, by a segment that comes
# once more (IDIAG_TIMER_TIMEWAIT).
_RENEWED = 3

# What a timer that fires may change of a TCP socket: a retransmission, a probe.
_BY_TIMERS = frozenset(
    {
        *("idiag_timer", "idiag_retrans", "idiag_expires", "idiag_wqueue"),
        *("INET_DIAG_INFO", "INET_DIAG_MEMINFO", "INET_DIAG_SKMEMINFO"),
        *("INET_DIAG_VEGASINFO", "INET_DIAG_DCTCPINFO", "INET_DIAG_BBRINFO"),
    }
)
# What an answer changes of the sockets that ask and are asked.
_BY_ASKING = frozenset({"NETLINK_DIAG_MEMINFO", "NETLINK_DIAG_FLAGS"})
_NOTHING: frozenset[str] = frozenset()


class _Everything:
    def __contains__(self, name: object) -> bool:
        return True


_EVERYTHING = _Everything()

# ::ffff:0.0.0.0/96
_V4_MAPPED = bytes(10) + b"\xff\xff"

# Messages without an age may be so much before or after those that have some.
_DUMP_S = 10.0

_NOT_SENT = "not sent"


@dataclass
class Counts:
    """How often an attribute was compared, and equal."""

    #: ``INET_DIAG_TOS``; of the structure that a message begins with ``inet_diag_msg``.
    name: str
    compared: int = 0
    equal: int = 0

    error: None = None


@dataclass
class DiagResult(Result):
    """What a comparison with sock_diag came to: its rows are sockets, its fields attributes."""

    #: By name, all that there are.
    attributes: dict[str, Counts] = field(default_factory=dict)
    #: Of each attribute of a socket that is not equal, what differs.
    unequal: list[tuple[Counts, list[Mismatch]]] = field(default_factory=list)

    @property
    def equal(self) -> int:
        """How many of the attributes compared were equal."""
        return sum(counts.equal for counts in self.attributes.values())

    def have_moved(self, gone: set[Mismatch]) -> None:
        """Take back the judgement on what another look did not find different."""
        self.moved += [m for m in self.mismatches if m in gone]
        self.mismatches = [m for m in self.mismatches if m not in gone]
        for counts, found in self.unequal:
            if gone.issuperset(found):
                counts.compared -= 1
                self.fields -= 1


class Told(NamedTuple):
    """A reply, taken to pieces."""

    kind: DiagKind
    #: How its sockets are called.
    name: str
    header: bytes
    attributes: dict[int, bytes]
    #: Members of the header.
    members: Mapping[str, Value]

    @property
    def cookie(self) -> bytes:
        """That of the socket, and what tells this message from others of it."""
        (cookie,) = (v for n, v in self.members.items() if n.endswith("_cookie"))
        assert isinstance(cookie, bytes)
        return cookie + self.kind.part(self.members, self.attributes)


def take_apart(diag: Diag, family: int, protocol: int, message: bytes) -> Told | None:
    """
    Take a message of sock_diag to pieces.

    :return: ``None`` for one of a kind that is not known
    :raises ValueError: if it is damaged
    """
    kind = diag.kind_of_reply(family, protocol)
    if kind is None:
        return None
    form = diag.structure(kind.header)
    header, rest = message[: form.size], message[form.size :]
    members = form.values(header)
    attributes = {n: data for n, data in nla_parse(diag.order, rest) if n not in kind.padding}
    return Told(kind, kind.name(protocol), header, attributes, members)


class Answers:
    """What sock_diag said at one moment, by the cookies of sockets."""

    def __init__(self, diag: Diag) -> None:
        self._diag = diag
        self._told: dict[tuple[int, bytes], Reply] = {}
        #: Namespaces that were asked (inodes; 0 if nobody knows which one it was).
        self.netns: set[int] = set()
        #: Error numbers, by namespace, family and protocol, of what was asked in vain.
        self.unanswered: dict[tuple[int, int, int], int] = {}
        #: How many replies there are of kinds that are not known, by family and protocol.
        self.others: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._told)

    def add(
        self, netns: int, replies: Iterable[Reply], unanswered: Iterable[Unanswered] = ()
    ) -> None:
        """
        Add the answers of a network namespace.

        :param unanswered: What was asked in vain; looked at once all *replies* are there.
        :raises ValueError: if one is damaged
        """
        self.netns.add(netns)
        for reply in replies:
            told = take_apart(self._diag, *reply)
            if told is None:
                key = (reply.family, reply.protocol)
                self.others[key] = self.others.get(key, 0) + 1
            else:
                # Of a netlink socket that has joined a group a dump tells twice.
                self._told.setdefault((netns, told.cookie), reply)
        for family, protocol, error in unanswered:
            self.unanswered[netns, family, protocol] = error

    def find(self, netns: int, cookie: bytes) -> Told | None:
        """What was said of a socket."""
        reply = self._told.get((netns, cookie)) or self._told.get((0, cookie))
        return take_apart(self._diag, *reply) if reply else None

    def due(self, seconds: float) -> Iterator[tuple[bytes, bytes]]:
        """Ends of the TCP sockets with a timer that fires within so many seconds."""
        for reply in self._told.values():
            # idiag_timer
            if reply.protocol == IPPROTO_TCP and reply.message[2]:
                told = take_apart(self._diag, *reply)
                ends = _ends(told.members) if told is not None else None
                if told is not None and ends is not None and _fires_within(told, seconds):
                    yield ends

    def keys(self) -> set[tuple[int, bytes]]:
        """All sockets: namespace and cookie."""
        return set(self._told)


class Socket(NamedTuple):
    """What memory says of a socket."""

    netns: int
    cookie: bytes
    message: Message
    #: Whether a dump has it.
    dumped: bool


def _records(diag: Diag, holders: Holders, losses: Losses) -> Iterator[AnySocket]:
    seen: set[int] = set()
    for record in for_each_socket(diag.prog, holders=holders, losses=losses):
        if isinstance(record, TcpSockRecord):
            seen.add(record.sk)
        yield record
    # Those that no process holds by themselves: subflows of MPTCP sockets, the kernel's own.
    bound = [sk for sk, _ in for_each_bound_tcp(diag.prog, seen)]
    for batch in diag.reader.read_many(bound):
        yield from batch.records()


def _sockets(diag: Diag, losses: Losses) -> Iterator[Socket]:
    """All sockets in memory that sock_diag could tell of."""
    diag.losses = losses
    holders = Holders(diag.prog, losses=losses)
    for record in _records(diag, holders, losses):
        if isinstance(record, UnreadableSocket):
            losses.lose(record.error, record.where)
            continue
        try:
            socket = _socket(diag, record)
        except FaultError as e:
            losses.lose(e, record.where)
            continue
        if socket is not None:
            yield socket


def _socket(diag: Diag, record: SocketRecord) -> Socket | None:
    """
    What sock_diag could tell of a socket.

    :return: ``None`` if it is of no kind that sock_diag tells of
    :raises FaultError: if its message or its network namespace cannot be read
    """
    found = diag.kind_of(record)
    message = diag.message(record) if found is not None else None
    if found is None or message is None:
        return None
    kind = found[0]
    members = diag.structure(kind.header).values(message.header)
    cookie = diag.cookie(record.sock) + kind.part(members, message.attributes)
    return Socket(record.netns, cookie, message, kind.dumped(diag, record))


class Comparison:
    """
    Compares what memory says with what sock_diag does.

    Of what was saved nobody knows when exactly it was told; but what a message says of ages and
    timers has to be of one and the same moment.

    :param elapsed_s: How long before memory sock_diag was asked, at most; ``None`` for live, where
        it is asked before and after.
    """

    def __init__(self, diag: Diag, elapsed_s: float | None) -> None:
        self._diag = diag
        self._elapsed_s = elapsed_s
        self.result = DiagResult()
        # Ends of the connections that a timer may have sent something over since.
        self._due: set[tuple[bytes, bytes]] = set()
        # How long ago messages were told, by their ages; and what else names a moment.
        self._agos: list[float] = []
        self._waiting: list[_Waiting] = []
        for kind in KINDS:
            self._counts(kind.header)
            for attribute in kind.attributes:
                self._counts(attribute.name)

    def _counts(self, name: str) -> Counts:
        name = name.replace("struct ", "")
        return self.result.attributes.setdefault(name, Counts(name))

    def compare(
        self, before: Answers, sockets: Iterable[Socket], after: Answers | None = None
    ) -> DiagResult:
        """Compare all."""
        if after is None:
            self._due = set(before.due(self._elapsed_s or 0))
        missed = before.keys() if after is None else before.keys() & after.keys()
        for socket in sockets:
            told = before.find(socket.netns, socket.cookie)
            then = after.find(socket.netns, socket.cookie) if after is not None else None
            missed -= {(socket.netns, socket.cookie), (0, socket.cookie)}
            if told is None:
                if then is None and socket.dumped and socket.netns in before.netns:
                    self._alone(socket, before)
                continue
            where = f"{told.name} of netns {socket.netns}"
            row = told.kind.label(told.members)
            if after is not None and then is None:
                self.tell(Mismatch(where, row, "", "gone", ""), moved=True)
                continue
            self.result.count(told.name)
            self._message(where, row, told, socket.message, then)
        for netns, cookie in sorted(missed):
            told = before.find(netns, cookie)
            assert told is not None
            where = f"{told.name} of netns {netns}"
            row = told.kind.label(told.members)
            moved = _fires_within(told, self._elapsed_s) or told.kind.is_busy(told.members)
            self.tell(Mismatch(where, row, "", "there", "not found"), moved=moved)
        self._judge_waiting()
        return self.result

    def _alone(self, socket: Socket, answers: Answers) -> None:
        message = socket.message
        kind = self._diag.kind_of_reply(message.family, message.protocol)
        assert kind is not None
        where = f"{kind.name(message.protocol)} of netns {socket.netns}"
        error = answers.unanswered.get((socket.netns, message.family, message.protocol))
        if error is not None:
            # Its module (tcp_diag, unix_diag, …) is not there, mostly.
            self._leave_out(f"{where}: sock_diag does not answer: {os.strerror(error)}")
            return
        row = kind.label(self._diag.structure(kind.header).values(message.header))
        self.tell(Mismatch(where, row, "", "not there", "there"))

    def _leave_out(self, line: str) -> None:
        if line not in self.result.left_out:
            self.result.left_out.append(line)

    def tell(self, mismatch: Mismatch, *, moved: bool = False) -> None:
        """Add a mismatch."""
        (self.result.moved if moved else self.result.mismatches).append(mismatch)

    def _message(self, where: str, row: str, told: Told, ours: Message, then: Told | None) -> None:
        kind, diag = told.kind, self._diag
        live = then is not None
        ago = None if live else _ago(diag, told, ours)
        if ago is not None:
            self._agos.append(ago)
        look = _Look(
            where,
            row,
            ago,
            timer=_NOTHING if live else self._timers_may(told, ours, ago),
            busy=kind.is_busy(told.members),
            renewed=not live and told.members.get("idiag_timer") == _RENEWED,
        )
        form = diag.structure(kind.header)
        later = then.header if then is not None else None
        self._count(
            kind.header, look.compare("", kind.header, form, told.header, ours.header, later)
        )
        known = {attribute.number: attribute for attribute in kind.attributes}
        for number in {**told.attributes, **ours.attributes}:
            theirs, mine = told.attributes.get(number), ours.attributes.get(number)
            later = then.attributes.get(number) if then is not None else None
            attribute = known.get(number)
            if attribute is None:
                name = f"attribute {number}"
                self.tell(Mismatch(where, row, name, _text(theirs), "not known"))
            elif number in ours.unknown:
                self._leave_out(f"{attribute.name}: {ours.unknown[number]}")
            elif then is not None and (theirs is None) != (later is None):
                self.tell(Mismatch(where, row, attribute.name, "", ""), moved=True)
            else:
                c_type = attribute.form if isinstance(attribute.form, str) else ""
                form_ = diag.form(attribute.form)
                found = look.compare(attribute.name, c_type, form_, theirs, mine, later)
                self._count(attribute.name, found)
        self._waiting += look.waiting

    def _timers_may(self, told: Told, ours: Message, ago: float | None) -> Container[str]:
        """
        What timers may have changed of a socket since it was told of: names of members.

        :param ago: When that was, if it is known.
        """
        if _fires_within(told, self._elapsed_s if ago is None else ago):
            # The one that ends a connection takes all of it away.
            return _BY_TIMERS if told.header[1] == ours.header[1] else _EVERYTHING
        # The other end may be on this machine, and have sent something once more.
        ends = _ends(told.members)
        return _BY_TIMERS if ends is not None and ends[::-1] in self._due else _NOTHING

    def _count(self, name: str, found: Iterable[tuple[Mismatch, bool]]) -> None:
        """Count an attribute, with its mismatches and whether each may have moved."""
        differ = []
        judged = True
        for mismatch, moved in found:
            self.tell(mismatch, moved=moved)
            differ.append(mismatch)
            judged = judged and not moved
        if judged:
            counts = self._counts(name)
            counts.compared += 1
            counts.equal += not differ
            self.result.fields += 1
            if differ:
                self.result.unequal.append((counts, differ))

    def _judge_waiting(self) -> None:
        """Judge the moments of messages that have no age: they were told about as long ago."""
        if not self._waiting:
            return
        earliest, latest = 0.0, self._elapsed_s or 0.0
        if self._agos:
            earliest, latest = min(self._agos) - _DUMP_S, max(self._agos) + _DUMP_S
        for ago, anew, mismatch in self._waiting:
            # What began anew since seems to be of later.
            if ago > latest or (ago < earliest and not anew):
                self.tell(mismatch)


def _ends(members: Mapping[str, Value]) -> tuple[bytes, bytes] | None:
    """Both ends of an inet socket, address and port, whichever family they are written in."""
    if "idiag_src" not in members:
        return None
    ends = []
    for address, port in (("idiag_src", "idiag_sport"), ("idiag_dst", "idiag_dport")):
        host, number = members[address], members[port]
        assert isinstance(host, bytes) and isinstance(number, bytes)
        ends.append(host.removeprefix(_V4_MAPPED).rstrip(b"\0") + b"/" + number)
    return ends[0], ends[1]


def _ago(diag: Diag, told: Told, ours: Message) -> float | None:
    """How long before memory a message was told, in seconds, by the ages that it has."""
    agos = []
    for attribute in told.kind.attributes:
        c_type = attribute.form
        if not isinstance(c_type, str) or not any(c_type == name for name, _ in MOMENTS):
            continue
        theirs, mine = (m.attributes.get(attribute.number) for m in (told, ours))
        if theirs is None or mine is None or len(theirs) != len(mine):
            continue
        form = diag.structure(c_type)
        for name, said, value in zip(form.names, form.unpack(theirs), form.unpack(mine)):
            moment = MOMENTS.get((c_type, name))
            if moment is not None and moment.direction > 0 and said != value:
                assert isinstance(said, int) and isinstance(value, int)
                agos.append((value - said) / moment.per_s)
    return statistics.median(agos) if agos else None


def _fires_within(told: Told, seconds: float | None) -> bool:
    """Whether a timer of a socket may have fired since it was told of."""
    if seconds is None or not told.members.get("idiag_timer"):
        return False
    expires = told.members["idiag_expires"]
    assert isinstance(expires, int)
    return expires / 1000 <= seconds + _SLACK_S


class _Waiting(NamedTuple):
    """A moment that is judged when all messages have been seen."""

    #: How long before memory it was, in seconds, by the difference of the two.
    ago: float
    #: Whether it may have begun anew since.
    anew: bool
    mismatch: Mismatch


class _Look:
    """A socket that is being compared."""

    def __init__(
        self,
        where: str,
        row: str,
        ago: float | None,
        *,
        timer: Container[str],
        renewed: bool,
        busy: bool,
    ) -> None:
        self._where = where
        self._row = row
        self._ago = ago
        #: What a timer may have changed, and whether a timer may have been started anew.
        self._timer = timer
        self._renewed = renewed
        #: Whether it is the one that asks or is asked.
        self._busy = busy
        #: Moments that cannot be judged by this message alone.
        self.waiting: list[_Waiting] = []

    def compare(
        self,
        name: str,
        c_type: str,
        form: Form,
        theirs: bytes | None,
        mine: bytes | None,
        then: bytes | None,
    ) -> Iterable[tuple[Mismatch, bool]]:
        """
        Compare an attribute.

        :param name: How it is called, before the names of its members
        :param c_type: The structure that it is
        :param theirs: What sock_diag says, ``None`` for one that was not sent
        :param then: What it says later; ``None`` if that was not asked
        :return: What differs, and whether that is because it moved
        """
        if theirs == mine and (then is None or then == theirs):
            return ()
        if theirs is None or mine is None:
            return [(self._mismatch(name, theirs, mine), name in self._timer)]
        return list(self._members(name, c_type, form, theirs, mine, then))

    def _by_timer(self, name: str) -> bool:
        attribute = name.split(".")[0]
        if self._busy and attribute in _BY_ASKING:
            return True
        return name in self._timer or attribute in self._timer

    def _mismatch(self, name: str, theirs: Value | None, mine: Value | None) -> Mismatch:
        return Mismatch(self._where, self._row, name, _text(theirs), _text(mine))

    def _members(
        self, name: str, c_type: str, form: Form, theirs: bytes, mine: bytes, then: bytes | None
    ) -> Iterator[tuple[Mismatch, bool]]:
        try:
            told, ours = form.values(theirs), form.values(mine)
            later = None if then is None else form.values(then)
        except ValueError:
            # Of another length than it has.
            yield self._mismatch(name, theirs, mine), name in self._timer
            return
        differs = False
        for member in {**told, **ours}:
            said, value = told.get(member), ours.get(member)
            after = None if later is None else later.get(member)
            if said == value and (later is None or said == after):
                continue
            differs = True
            where = ".".join(filter(None, (name, member)))
            moment = MOMENTS.get((c_type, member))
            if moment is not None:
                assert isinstance(said, int) and isinstance(value, int)
                assert after is None or isinstance(after, int)
                if not self._within(where, moment, said, value, after):
                    yield self._mismatch(where, said, value), self._by_timer(where)
            elif later is not None and after != said:
                yield self._mismatch(where, said, after), True
            else:
                grew = (c_type, member) in _COUNTS and _less(said, value)
                moves = later is None and (grew or (c_type, member) in _MEASURED)
                yield self._mismatch(where, said, value), moves or self._by_timer(where)
        if not differs and theirs != mine:
            # The same values, and not the same bytes: in another order, say.
            yield Mismatch(self._where, self._row, name, theirs.hex(), mine.hex()), False

    def _within(
        self, where: str, moment: ClockMember, said: int, value: int, after: int | None
    ) -> bool:
        """Whether memory may say this of a moment."""
        if after is not None:
            if (after - said) * moment.direction < 0:
                # It began anew between the looks.
                return True
            first, last = sorted((said, after))
            slack = moment.slack_s * moment.per_s
            return first - slack <= value <= last + slack
        ago = (value - said) * moment.direction / moment.per_s
        anew = self._renewed or self._by_timer(where)
        if moment.direction < 0 and value == 0:
            # A countdown that is over.
            return True
        if self._ago is None:
            self.waiting.append(_Waiting(ago, anew, self._mismatch(where, said, value)))
            return True
        # What began anew since seems to be of later.
        return ago <= self._ago + moment.slack_s and (anew or ago >= self._ago - moment.slack_s)


def _less(one: Value | None, other: Value | None) -> bool:
    return isinstance(one, int) and isinstance(other, int) and one < other


def _text(value: Value | None) -> str:
    if value is None:
        return _NOT_SENT
    if isinstance(value, int):
        return str(value)
    stripped = value.rstrip(b"\0")
    if stripped and all(0x20 <= byte < 0x7F for byte in stripped):
        return escape(value)
    return value.hex() or "empty"


def read_all(prog: Program, losses: Losses) -> None:
    """Read all that a comparison does, but keys: for a core that is given to others."""
    for _ in _sockets(diag_of(prog, secrets=False), losses):
        pass


def check_live(prog: Program, proc: str = "/proc", losses: Losses | None = None) -> DiagResult:
    """
    Compare the running kernel's memory with what its sock_diag says.

    :param losses: Takes what cannot be read.
    :raises UserError: if sock_diag cannot be asked
    """
    diag = diag_of(prog)
    result = DiagResult()
    lasting: set[Mismatch] | None = None
    left_out: list[str] = []
    before = _ask_all(diag, proc, left_out)
    for i in range(_TRIES):
        # Each time a little longer, to fall out of step with what moves.
        time.sleep(i * 0.07)
        # What cannot be read at one moment is there at another.
        lost = Losses()
        sockets = list(_sockets(diag, lost))
        left_out = []
        after = _ask_all(diag, proc, left_out)
        result = Comparison(diag, None).compare(before, sockets, after)
        result.left_out += left_out
        found = set(result.mismatches)
        lasting = found if lasting is None else lasting & found
        if not lasting:
            break
        before = after
    result.have_moved(set(result.mismatches) - (lasting or set()))
    if losses is not None:
        losses.take(lost.sent())
    return result


def _ask_all(diag: Diag, proc: str, left_out: list[str]) -> Answers:
    """Ask in all network namespaces that a process lives in."""
    answers = Answers(diag)
    for netns, path in _net_files(diag.prog, proc, left_out):
        unanswered: list[Unanswered] = []
        try:
            answers.add(netns, sock_diag.ask(path, unanswered), unanswered)
        except ImportError:
            raise UserError("check --diag asks through pyroute2, which is not installed") from None
        except PermissionError as e:
            raise UserError(f"sock_diag of network namespace {netns}: {e.strerror}") from None
        except OSError as e:
            if path is None:
                raise UserError(f"sock_diag cannot be asked: {e.strerror or e}") from None
            left_out.append(f"network namespace {netns}: {e.strerror or e}")
        except ValueError as e:
            raise UserError(f"sock_diag of network namespace {netns}: {e}") from None
    _leave_out_others(answers, left_out)
    return answers


def _leave_out_others(answers: Answers, left_out: list[str]) -> None:
    for (family, protocol), count in sorted(answers.others.items()):
        asked = f"{address_family_name(family)}, protocol {protocol}"
        what = f"{count} sockets that are asked for as {asked}"
        left_out.append(f"{what}: what sock_diag tells of these is not known here")


def _net_files(prog: Program, proc: str, left_out: list[str]) -> Iterator[tuple[int, str | None]]:
    """Network namespaces, each with a file to enter it by; none for one's own."""
    tasks = Tasks(prog).by_tid.values()
    pids: dict[int, list[int]] = {}
    own = 0
    for task in tasks:
        if task.pid == task.tgid and task.nsproxy:
            try:
                ino = task_net(prog, task.nsproxy)
            except FaultError:
                # It has ended since.
                continue
            pids.setdefault(ino, []).append(task.pid)
            if task.pid == os.getpid():
                own = ino
    for namespace in net_namespaces(prog).values():
        if namespace.ino == own:
            yield own, None
            continue
        for pid in pids.get(namespace.ino, ()):
            path = f"{proc}/{pid}/ns/net"
            if Path(path).exists():
                yield namespace.ino, path
                break
        else:
            left_out.append(
                f"network namespace {namespace.ino}: no process lives in it by which to enter it"
            )


def check_saved(prog: Program, path: str, losses: Losses) -> DiagResult:
    """
    Compare a core with replies that were saved shortly before it.

    :param losses: Takes what cannot be read.
    :param path: A file of replies, or a directory with one for each network namespace:
        ``netns/INODE/diag``, and ``uptime`` as procfs has it
    :raises UserError: if that is not there, or damaged
    """
    diag = diag_of(prog)
    answers = Answers(diag)
    place = Path(path)
    files = sorted(place.glob("netns/*/diag")) if place.is_dir() else [place]
    if not files:
        raise UserError(f"{path} has no saved replies of sock_diag: no netns/INODE/diag")
    for file in files:
        netns = file.parent.name if file.name == "diag" else ""
        try:
            answers.add(int(netns) if netns.isdecimal() else 0, *sock_diag.load_all(file))
        except OSError as e:
            raise UserError(f"{file}: {e.strerror}") from None
        except ValueError as e:
            text = str(e)
            raise UserError(text if text.startswith(str(file)) else f"{file}: {text}") from None
    comparison = Comparison(diag, _elapsed_s(prog, place))
    result = comparison.compare(answers, _sockets(diag, losses))
    if len(answers) and not result.rows:
        raise UserError(
            f"{path}: of another machine, or another boot of it: of its {len(answers)} sockets "
            "none is in this core"
        )
    _leave_out_others(answers, result.left_out)
    asked = answers.netns
    for namespace in net_namespaces(prog).values():
        if asked != {0} and namespace.ino not in asked:
            result.left_out.append(f"network namespace {namespace.ino}: nothing saved")
    return result


def _elapsed_s(prog: Program, place: Path) -> float:
    """At most so long before the core replies were saved."""
    try:
        saved_s = float((place / "uptime").read_text().split()[0])
        # sock_diag may have been asked some time before that file was read.
        return max(clock(prog).uptime_s() - saved_s, 0) + _BEFORE_UPTIME_S
    except (OSError, ValueError, IndexError, LookupError, FaultError):
        return _ANY_S


# How long before the file uptime an oracle may have asked; and what is not too long where there
# is no such file.
_BEFORE_UPTIME_S = 30.0
_ANY_S = 600.0
