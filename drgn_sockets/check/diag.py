# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Comparing kernel memory with sock_diag: each message, each attribute, each member of a structure.

A reply is matched with its socket by the cookie, which a dump assigns to every socket that it
reports. A live kernel is asked before memory is read and after it, as procfs is (see
:mod:`drgn_sockets.check.compare`). Saved replies are from a moment before their core.
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
from drgn_sockets.kernel.lost import sift
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

# As in compare.py.
_TRIES = 8
# Clocks that are read one after the other may differ by some ticks.
_SLACK_S = 0.1


class ClockMember(NamedTuple):
    """A member that changes with the clock, so that two looks see different values."""

    #: 1 if it grows as time goes by, -1 for a countdown, which ends at 0.
    direction: int
    #: How many of its units are a second.
    per_s: int
    #: By how many seconds a value may be off.
    slack_s: float = _SLACK_S


#: All members that change with the clock, by structure and name. All other members have to be
#: equal.
MOMENTS: dict[tuple[str, str], ClockMember] = {
    ("struct inet_diag_msg", "idiag_expires"): ClockMember(-1, 1000),
    ("struct tcp_info", "tcpi_last_data_sent"): ClockMember(1, 1000),
    ("struct tcp_info", "tcpi_last_data_recv"): ClockMember(1, 1000),
    ("struct tcp_info", "tcpi_last_ack_recv"): ClockMember(1, 1000),
    # These three grow while the connection is busy.
    ("struct tcp_info", "tcpi_busy_time"): ClockMember(1, 1_000_000),
    ("struct tcp_info", "tcpi_rwnd_limited"): ClockMember(1, 1_000_000),
    ("struct tcp_info", "tcpi_sndbuf_limited"): ClockMember(1, 1_000_000),
    ("struct mptcp_info", "mptcpi_last_data_sent"): ClockMember(1, 1000),
    ("struct mptcp_info", "mptcpi_last_data_recv"): ClockMember(1, 1000),
    ("struct mptcp_info", "mptcpi_last_ack_recv"): ClockMember(1, 1000),
    # This one grows while the connection recovers from a timeout. Its clock starts a little before
    # jiffies do.
    ("struct tcp_info", "tcpi_total_rto_time"): ClockMember(1, 1000, 1.0),
}

# Counts that grow while no program runs: a raw socket whose queue is full drops its copies of the
# segments that TCP sends again, and SCTP sends heartbeats.
_COUNTS = frozenset(
    {
        ("SK_MEMINFO", "DROPS"),
        *(("struct sctp_info", f"sctpi_{name}") for name in ("opackets", "ipackets")),
        *(("struct sctp_info", f"sctpi_{name}") for name in ("octrlchunks", "ictrlchunks")),
    }
)
# Members that SCTP's heartbeats change, by measuring the round-trip time.
_MEASURED = frozenset({("struct sctp_info", "sctpi_p_srtt"), ("struct sctp_info", "sctpi_p_rto")})

# IDIAG_TIMER_TIMEWAIT: a segment that comes again restarts this timer while no program runs.
_RENEWED = 3

# A timer of a TCP socket may change these when it fires: it retransmits, or sends a probe.
_BY_TIMERS = frozenset(
    {
        *("idiag_timer", "idiag_retrans", "idiag_expires", "idiag_wqueue"),
        *("INET_DIAG_INFO", "INET_DIAG_MEMINFO", "INET_DIAG_SKMEMINFO"),
        *("INET_DIAG_VEGASINFO", "INET_DIAG_DCTCPINFO", "INET_DIAG_BBRINFO"),
    }
)
# These change while sock_diag answers, in the netlink sockets that ask and answer.
_BY_ASKING = frozenset({"NETLINK_DIAG_MEMINFO", "NETLINK_DIAG_FLAGS"})
_NOTHING: frozenset[str] = frozenset()


class _Everything:
    def __contains__(self, name: object) -> bool:
        return True


_EVERYTHING = _Everything()

# ::ffff:0.0.0.0/96
_V4_MAPPED = bytes(10) + b"\xff\xff"

# By so many seconds a message without ages may be earlier or later than messages with ages.
_DUMP_S = 10.0

_NOT_SENT = "not sent"


@dataclass
class Counts:
    """How often an attribute was compared, and how often it was equal."""

    #: Name of an attribute (``INET_DIAG_TOS``), or of a message's header (``inet_diag_msg``).
    name: str
    compared: int = 0
    equal: int = 0

    error: None = None


@dataclass
class DiagResult(Result):
    """The result of a comparison with sock_diag; rows are sockets, and fields are attributes."""

    #: Counts of every known attribute and header, by its name.
    attributes: dict[str, Counts] = field(default_factory=dict)
    #: For each attribute of a socket that is not equal: its counts, and what differs.
    unequal: list[tuple[Counts, list[Mismatch]]] = field(default_factory=list)

    @property
    def equal(self) -> int:
        """How many of the attributes compared were equal."""
        return sum(counts.equal for counts in self.attributes.values())

    def have_moved(self, gone: set[Mismatch]) -> None:
        """Move to :attr:`moved` the mismatches that another look did not find again."""
        self.moved += [m for m in self.mismatches if m in gone]
        self.mismatches = [m for m in self.mismatches if m not in gone]
        for counts, found in self.unequal:
            if gone.issuperset(found):
                counts.compared -= 1
                self.fields -= 1


class Told(NamedTuple):
    """A reply, split into header and attributes."""

    kind: DiagKind
    #: Name of the sockets of this kind and protocol.
    name: str
    header: bytes
    attributes: dict[int, bytes]
    #: Members of the header.
    members: Mapping[str, Value]

    @property
    def cookie(self) -> bytes:
        """The socket's cookie, and bytes that tell several messages of one socket apart."""
        (cookie,) = (v for n, v in self.members.items() if n.endswith("_cookie"))
        assert isinstance(cookie, bytes)
        return cookie + self.kind.part(self.members, self.attributes)


def take_apart(diag: Diag, family: int, protocol: int, message: bytes) -> Told | None:
    """
    Split a message of sock_diag into header and attributes.

    :return: The parts; ``None`` if the kind of socket is not known
    :raises ValueError: if the message is damaged
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
    """Replies of sock_diag at one moment, by the cookies of sockets."""

    def __init__(self, diag: Diag) -> None:
        self._diag = diag
        self._told: dict[tuple[int, bytes], Reply] = {}
        #: Inodes of the namespaces that were asked; 0 stands for an unknown namespace.
        self.netns: set[int] = set()
        #: Error numbers of the requests that were refused, by namespace, family and protocol.
        self.unanswered: dict[tuple[int, int, int], int] = {}
        #: How many replies are of kinds that are not known, by family and protocol.
        self.others: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._told)

    def add(
        self, netns: int, replies: Iterable[Reply], unanswered: Iterable[Unanswered] = ()
    ) -> None:
        """
        Add the answers of a network namespace.

        :param unanswered: Requests that were refused; read after all *replies*.
        :raises ValueError: if a reply is damaged
        """
        self.netns.add(netns)
        for reply in replies:
            told = take_apart(self._diag, *reply)
            if told is None:
                key = (reply.family, reply.protocol)
                self.others[key] = self.others.get(key, 0) + 1
            else:
                # A dump reports a netlink socket twice if it has joined a group.
                self._told.setdefault((netns, told.cookie), reply)
        for family, protocol, error in unanswered:
            self.unanswered[netns, family, protocol] = error

    def find(self, netns: int, cookie: bytes) -> Told | None:
        """The reply about a socket; ``None`` if there is none."""
        reply = self._told.get((netns, cookie)) or self._told.get((0, cookie))
        return take_apart(self._diag, *reply) if reply else None

    def due(self, seconds: float) -> Iterator[tuple[bytes, bytes]]:
        """Both ends of each TCP socket whose timer fires within so many seconds."""
        for reply in self._told.values():
            # idiag_timer
            if reply.protocol == IPPROTO_TCP and reply.message[2]:
                told = take_apart(self._diag, *reply)
                ends = _ends(told.members) if told is not None else None
                if told is not None and ends is not None and _fires_within(told, seconds):
                    yield ends

    def keys(self) -> set[tuple[int, bytes]]:
        """Namespace and cookie of each socket."""
        return set(self._told)


class Socket(NamedTuple):
    """What memory says of a socket."""

    netns: int
    cookie: bytes
    message: Message
    #: Whether the kernel's dump has a message of the socket.
    dumped: bool


def _records(diag: Diag, holders: Holders, losses: Losses) -> Iterator[AnySocket]:
    seen: set[int] = set()
    for record in for_each_socket(diag.prog, holders=holders, losses=losses):
        if isinstance(record, TcpSockRecord):
            seen.add(record.sk)
        yield record
    # TCP sockets that no process holds: subflows of MPTCP sockets, and the kernel's own sockets.
    bound = [one.address for one in sift(for_each_bound_tcp(diag.prog, seen), losses.lose)]
    for batch in diag.reader.read_many(bound):
        yield from batch.records()


def _sockets(diag: Diag, losses: Losses) -> Iterator[Socket]:
    """All sockets in memory that sock_diag can report."""
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
    The message that sock_diag would send about a socket.

    :return: The socket; ``None`` if sock_diag does not report sockets of this kind
    :raises FaultError: if the message or the socket's network namespace cannot be read
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
    Compares what memory says with what sock_diag says.

    It is not known exactly when a saved message was sent. But all ages and timers in one message
    have to show the same moment.

    :param elapsed_s: At most so many seconds before memory sock_diag was asked; ``None`` for a live
        kernel, whose sock_diag is asked before and after.
    """

    def __init__(self, diag: Diag, elapsed_s: float | None) -> None:
        self._diag = diag
        self._elapsed_s = elapsed_s
        self.result = DiagResult()
        # Ends of the TCP sockets whose timers may have sent something since sock_diag was asked.
        self._due: set[tuple[bytes, bytes]] = set()
        # For each message with ages: how many seconds before memory it was sent.
        self._agos: list[float] = []
        # Members that change with the clock, of messages without ages.
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
        """
        Compare all sockets.

        :param after: Answers after the look at memory; ``None`` for a core.
        """
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
            # Mostly because the module (tcp_diag, unix_diag, …) is not loaded.
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
        Names of the members that timers may have changed since the message was sent.

        :param ago: How many seconds before memory it was sent; ``None`` if unknown.
        """
        if _fires_within(told, self._elapsed_s if ago is None else ago):
            # If the state (idiag_state) differs, the timer has ended the connection, and everything
            # may have changed.
            return _BY_TIMERS if told.header[1] == ours.header[1] else _EVERYTHING
        # The other end may be on this machine, and may have sent something again.
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
        """Judge messages without ages: they were sent at about the same time as the others."""
        if not self._waiting:
            return
        earliest, latest = 0.0, self._elapsed_s or 0.0
        if self._agos:
            earliest, latest = min(self._agos) - _DUMP_S, max(self._agos) + _DUMP_S
        for ago, anew, mismatch in self._waiting:
            # A timer that was restarted since makes the message look later than it was.
            if ago > latest or (ago < earliest and not anew):
                self.tell(mismatch)


def _ends(members: Mapping[str, Value]) -> tuple[bytes, bytes] | None:
    """
    Address and port of both ends of an inet socket; ``None`` for other sockets.

    IPv4 and IPv4-mapped IPv6 addresses have the same form.
    """
    if "idiag_src" not in members:
        return None
    ends = []
    for address, port in (("idiag_src", "idiag_sport"), ("idiag_dst", "idiag_dport")):
        host, number = members[address], members[port]
        assert isinstance(host, bytes) and isinstance(number, bytes)
        ends.append(host.removeprefix(_V4_MAPPED).rstrip(b"\0") + b"/" + number)
    return ends[0], ends[1]


def difference(value: int, said: int) -> int:
    """
    Get how much larger a member is than it was.

    Ages in milliseconds have 32 bits. That of what never happened is the age of jiffies 0, which
    come five minutes after the boot: until then the kernel tells a negative number.

    >>> difference(10788, 4294946460)
    31624
    """
    less = value - said
    if max(value, said) >> 32 == 0 and abs(less) >> 31:
        less += -(1 << 32) if less > 0 else 1 << 32
    return less


def _ago(diag: Diag, told: Told, ours: Message) -> float | None:
    """Seconds from a message to the reading of memory, by its ages; ``None`` if it has none."""
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
            if moment is None or moment.direction < 0:
                continue
            assert isinstance(said, int) and isinstance(value, int)
            # An age that is less than it was has been restarted, and tells nothing.
            if difference(value, said) > 0:
                agos.append(difference(value, said) / moment.per_s)
    return statistics.median(agos) if agos else None


def _fires_within(told: Told, seconds: float | None) -> bool:
    """Tell whether a socket's timer may have fired within *seconds* after its message."""
    if seconds is None or not told.members.get("idiag_timer"):
        return False
    expires = told.members["idiag_expires"]
    assert isinstance(expires, int)
    return expires / 1000 <= seconds + _SLACK_S


class _Waiting(NamedTuple):
    """A member that changes with the clock, to be judged when all messages have been seen."""

    #: How many seconds before memory the message was sent, by the difference of the two values.
    ago: float
    #: Whether the timer or age may have been restarted since.
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
        #: Names of the attributes and members that a timer may have changed.
        self._timer = timer
        #: Whether the timer may have been restarted.
        self._renewed = renewed
        #: Whether the socket is one of sock_diag itself, in use while it answers.
        self._busy = busy
        #: Members that change with the clock, and cannot be judged by this message alone.
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

        :param name: Name of the attribute; empty for the header.
        :param c_type: C type of the structure that it holds; empty if it holds none.
        :param theirs: What sock_diag says; ``None`` if it did not send the attribute.
        :param mine: What memory says; ``None`` if it would not send the attribute.
        :param then: What sock_diag says later; ``None`` if it was not asked, or did not send it.
        :return: Each difference, and whether it may be only a change between two looks
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
            # At least one of them does not have the length of the form.
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
            # The values are the same, but the bytes are not: their order may differ.
            yield Mismatch(self._where, self._row, name, theirs.hex(), mine.hex()), False

    def _within(
        self, where: str, moment: ClockMember, said: int, value: int, after: int | None
    ) -> bool:
        """Tell whether memory may have *value* in a member that changes with time."""
        if after is not None:
            if difference(after, said) * moment.direction < 0:
                # The timer or age was restarted between the looks.
                return True
            first, last = sorted((said, after))
            slack = moment.slack_s * moment.per_s
            return first - slack <= value <= last + slack
        ago = difference(value, said) * moment.direction / moment.per_s
        anew = self._renewed or self._by_timer(where)
        if moment.direction < 0 and value == 0:
            # The countdown has ended.
            return True
        if self._ago is None:
            self.waiting.append(_Waiting(ago, anew, self._mismatch(where, said, value)))
            return True
        # A timer or an age that was restarted since makes the message look later than it was.
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
    """Read all that a comparison reads, except keys, so that a distilled core can be given away."""
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
    before = _ask_all(diag, proc, left_out, Losses())
    for i in range(_TRIES):
        # Each pause is a little longer, so that the looks fall out of step with periodic changes.
        time.sleep(i * 0.07)
        # Memory that cannot be read at one moment may be readable later, so each try has its own.
        lost = Losses()
        sockets = list(_sockets(diag, lost))
        left_out = []
        after = _ask_all(diag, proc, left_out, lost)
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


def _ask_all(diag: Diag, proc: str, left_out: list[str], losses: Losses) -> Answers:
    """Ask in all network namespaces that a process lives in."""
    answers = Answers(diag)
    for netns, path in _net_files(diag.prog, proc, left_out, losses):
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


def _net_files(
    prog: Program, proc: str, left_out: list[str], losses: Losses
) -> Iterator[tuple[int, str | None]]:
    """Each network namespace and a file to enter it by; ``None`` for this process's own."""
    tasks = Tasks(prog, losses.lose).by_tid.values()
    pids: dict[int, list[int]] = {}
    own = 0
    for task in tasks:
        if task.pid == task.tgid and task.nsproxy:
            try:
                ino = task_net(prog, task.nsproxy)
            except FaultError as e:
                # The process may have ended since.
                if Path(f"{proc}/{task.pid}").exists():
                    losses.lose(e, f"network namespace of process {task.pid}")
                continue
            pids.setdefault(ino, []).append(task.pid)
            if task.pid == os.getpid():
                own = ino
    for namespace in net_namespaces(prog, losses.lose).values():
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

    :param path: A file of replies, or a directory with such a file for each network namespace
        (``netns/INODE/diag``) and a copy of ``/proc/uptime``.
    :param losses: Takes what cannot be read.
    :raises UserError: if *path* has no replies, or they are damaged or of another machine
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
    comparison = Comparison(diag, _elapsed_s(prog, place, losses))
    result = comparison.compare(answers, _sockets(diag, losses))
    if len(answers) and not result.rows:
        raise UserError(
            f"{path}: of another machine, or another boot of it: of its {len(answers)} sockets "
            "none is in this core"
        )
    _leave_out_others(answers, result.left_out)
    asked = answers.netns
    for namespace in net_namespaces(prog, losses.lose).values():
        if asked != {0} and namespace.ino not in asked:
            result.left_out.append(f"network namespace {namespace.ino}: nothing saved")
    return result


def _elapsed_s(prog: Program, place: Path, losses: Losses) -> float:
    """Get the largest possible time between the saving of replies and the core, seconds."""
    try:
        saved_s = float((place / "uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _ANY_S
    try:
        # sock_diag may have been asked some time before that file was read.
        return max(clock(prog).uptime_s() - saved_s, 0) + _BEFORE_UPTIME_S
    except (LookupError, FaultError) as e:
        losses.lose(e if isinstance(e, FaultError) else str(e), "uptime")
        return _ANY_S


# sock_diag may have been asked so many seconds before the file uptime was read.
_BEFORE_UPTIME_S = 30.0
# The bound if there is no such file.
_ANY_S = 600.0
