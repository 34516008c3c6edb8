# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``ss -i`` and ``TCP_INFO`` tell, taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterator

from drgn import Type

_WORD = re.compile(r"(?:send|pacing_rate|delivery_rate|\w+:) \S+|\S+")
#: What the guest's ss (6.1.0) does not know yet.
NEWER = {"rcv_wnd:", "rehash:", "usec_ts"}
#: In hexadecimal until iproute2 6.8.
HEX = ("seq:", "sfseq:", "ssnoff:", "maplen:")


def words(text: str, base: int = 10) -> dict[str, str]:
    """Words by what comes before their value, in their order."""
    found = {}
    for word in _WORD.findall(text):
        key = re.match(r"[^: ]*[: ]?", word)[0]  # type: ignore[index]
        value = word[len(key) :]
        assert key not in found, text
        found[key] = str(int(value, base)) if key in HEX else value
    return found


def member_names(type_: Type) -> Iterator[str]:
    for member in type_.members or ():
        if member.name is None:
            yield from member_names(member.type)
        else:
            yield member.name


AGES = ("lastsnd:", "lastrcv:", "lastack:")


CHRONO = ("busy:", "rwnd_limited:", "sndbuf_limited:")


#: What grows when a segment, an ACK or a probe is sent again.
GROWS = {
    *("rto:", "backoff:", "segs_out:", "segs_in:", "data_segs_out:", "bytes_sent:"),
    *("data_segs_in:", "bytes_retrans:", "retrans:", *AGES, *CHRONO),
}
