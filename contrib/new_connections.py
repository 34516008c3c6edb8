# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a process has opened, or closed, between two moments.

    drgn-sockets fds --json > before
    drgn-sockets fds --json > after
    python3 contrib/new_connections.py before after

The old way was `ls -l /proc/PID/fd` twice and diff. The kernel reuses the number of a closed
fd, so the number alone does not tell a new file from an old one. The number and the name do:
the name of a socket has its inode (socket:[21189]). The detail says which connection it is.
The script also compares two crash dumps of one machine (drgn-sockets -c vmcore fds --json).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Key = tuple[int, int, int, str]


def listing(path: str) -> dict[Key, dict[str, Any]]:
    rows = map(json.loads, Path(path).read_text().splitlines())
    # A thread with a file table of its own has a tid, and fds of its own.
    return {(row["pid"], row["tid"] or 0, row["fd"], row["name"]): row for row in rows}


try:
    before, after = map(listing, sys.argv[1:])
except (ValueError, TypeError, KeyError, OSError) as e:
    print(
        f"cannot compare: {e}; usage: new_connections.py BEFORE AFTER (of fds --json)",
        file=sys.stderr,
    )
    sys.exit(2)

for sign, rows, others in (("-", before, after), ("+", after, before)):
    for key in sorted(rows.keys() - others.keys()):
        row = rows[key]
        what = row["detail"] or row["name"]
        print(f"{sign} {row['command']!r} pid {row['pid']} fd {row['fd']} {row['kind']} {what!a}")
