# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``ss`` of iproute2 prints, taken apart."""

from __future__ import annotations

import re
from typing import NamedTuple

# Of a raw socket it is the protocol's, if it has a name.
_NETID = r"[\w?()-]+"
_STATE = (
    r"(?:ESTAB|SYN-SENT|SYN-RECV|FIN-WAIT-1|FIN-WAIT-2|TIME-WAIT|UNCONN|CLOSE-WAIT|LAST-ACK|"
    r"LISTEN|CLOSING)"
)
# A name may hold a newline, so a row ends where the next one begins.
_START = re.compile(rf"^(?={_NETID} +{_STATE} +\d+ +-?\d+ )", re.MULTILINE)
_HEAD = re.compile(
    rf"(?P<netid>{_NETID}) +(?P<state>{_STATE}) +(?P<recv>\d+) +(?P<send>-?\d+) +(?P<rest>.*)",
    re.DOTALL,
)
_UNIX = re.compile(
    # A name may look like all the rest; that of the peer sock_diag does not tell.
    r"(?P<local>\S.*) (?P<ino>\d+) +(?P<peer>\*) (?P<peer_ino>\d+) +"
    r"(?P<more>(?:users:\(|skmem:\(|<->|-->|<--|---).*)",
    re.DOTALL,
)
_INET = re.compile(r"(?P<local>\S+) +(?P<peer>\S+) *(?P<more>.*)", re.DOTALL)
_USER = re.compile(r'\("(.*?)",pid=(\d+),fd=(\d+)\)(?=[,)])', re.DOTALL)


class SsRow(NamedTuple):
    """A row of ss."""

    netid: str
    state: str
    recv_q: int
    send_q: int
    local: str
    peer: str
    #: Of a unix socket.
    ino: int
    peer_ino: int
    #: (comm, pid, fd) of each holder.
    users: list[tuple[str, int, int]]
    #: What follows: ``uid:0 ino:7 sk:2 … cwnd:10``.
    more: str
    netns: int = 0

    def word(self, name: str) -> str | None:
        """The value of ``name:value`` or of ``name value``."""
        found = re.search(rf"(?:^|\s){name}[: ](\S+)", self.more)
        return found[1] if found else None

    def number(self, name: str) -> int | None:
        """The same, a number."""
        word = self.word(name)
        return None if word is None else int(word)

    def has(self, word: str) -> bool:
        """Whether a word stands alone."""
        return word in self.more.split()

    @property
    def cookie(self) -> int | None:
        """``sk:``, the socket's cookie."""
        word = self.word("sk")
        return None if word is None else int(word, 16)

    @property
    def inode(self) -> int:
        """Inode of a socket of any family, 0 for none."""
        return self.ino if self.netid.startswith("u_") else self.number("ino") or 0

    @property
    def timer(self) -> tuple[str, float, int] | None:
        """Name, seconds until it fires, and how often it has."""
        found = re.search(r"timer:\((\w+),(.*?),(\d+)\)", self.more)
        return (found[1], _seconds(found[2]), int(found[3])) if found else None

    @property
    def skmem(self) -> dict[str, int] | None:
        """What ``-m`` adds, by its letters."""
        found = re.search(r"skmem:\((.*?)\)", self.more)
        if found is None:
            return None
        pairs = (re.fullmatch(r"([a-z]+)(-?\d+)", item) for item in found[1].split(","))
        return {pair[1]: int(pair[2]) for pair in pairs if pair}


def _seconds(text: str) -> float:
    # print_ms_timer(): 2min3sec, 4.276ms (which are seconds and thousandths), 200ms, or
    # nothing at all.
    total = 0.0
    for number, unit in re.findall(r"([\d.]+)(min|sec|ms)", text):
        if unit == "min":
            total += 60 * float(number)
        elif unit == "sec" or "." in number:
            total += float(number)
        else:
            total += float(number) / 1000
    return total


def parse_ss(text: str) -> list[SsRow]:
    """Rows of ss -O with the column Netid."""
    rows = []
    for chunk in _START.split(text)[1:]:
        head = _HEAD.match(chunk)
        assert head, chunk
        unix = head["netid"].startswith("u_")
        match = (_UNIX if unix else _INET).match(head["rest"])
        assert match, chunk
        rows.append(
            SsRow(
                head["netid"],
                head["state"],
                int(head["recv"]),
                int(head["send"]),
                match["local"],
                match["peer"],
                int(match["ino"]) if unix else 0,
                int(match["peer_ino"]) if unix else 0,
                [(comm, int(pid), int(fd)) for comm, pid, fd in _USER.findall(match["more"])],
                _USER.sub("", match["more"]),
            )
        )
    return rows
