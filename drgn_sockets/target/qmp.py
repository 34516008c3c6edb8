# SPDX-License-Identifier: LGPL-2.1-or-later
"""What QEMU's monitor (QMP) says of a guest's memory."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

# A monitor answers within milliseconds, but not while it serves another program.
_TIMEOUT_S = 10.0

# "  0000000000100000-000000003fffffff (prio 0, ram): pc.ram @0000000000100000", of "info mtree -f".
_RANGE = re.compile(r"^\s+([0-9a-f]{8,16})-([0-9a-f]{8,16}) \(prio -?\d+, (?:nv-)?ram\):")


class _Monitor:
    """
    A connection to a monitor.

    :param address: A socket's path, or host:port, as drgn takes them.
    :raises OSError: if it does not answer
    """

    def __init__(self, address: str) -> None:
        host, colon, port = address.rpartition(":")
        if address[:1] in "/." or not colon or not port.isdecimal():
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(_TIMEOUT_S)
            self._socket.connect(address)
        else:
            self._socket = socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_S)
        self._lines = self._socket.makefile("r", encoding="utf-8", errors="replace")
        self._receive()
        self.execute("qmp_capabilities")

    def _receive(self) -> Any:
        line = self._lines.readline()
        try:
            return json.loads(line)
        except ValueError:
            raise OSError("no answer of QMP") from None

    def execute(self, command: str, **arguments: Any) -> Any:
        """Have a command executed, and get what it returns; ``None`` if it failed."""
        message = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            answer = self._receive()
            if "return" in answer or "error" in answer:
                return answer.get("return")

    def close(self) -> None:
        """Make room for others."""
        self._lines.close()
        self._socket.close()


def ram_ranges(address: str) -> list[tuple[int, int]]:
    """
    Physical addresses and sizes of a guest's memory, from the lowest to the highest.

    :raises OSError: if the monitor does not answer
    """
    monitor = _Monitor(address)
    try:
        tree = monitor.execute("human-monitor-command", **{"command-line": "info mtree -f"})
    finally:
        monitor.close()
    return parse_mtree(tree if isinstance(tree, str) else "")


def parse_mtree(tree: str) -> list[tuple[int, int]]:
    """RAM in the address space of the processors, out of the monitor's ``info mtree -f``."""
    for view in re.split(r"^FlatView ", tree, flags=re.MULTILINE):
        if re.search(r'^ *AS "memory"', view, re.MULTILINE):
            found = (_RANGE.match(line) for line in view.splitlines())
            return [(int(m[1], 16), int(m[2], 16) + 1 - int(m[1], 16)) for m in found if m]
    return []
