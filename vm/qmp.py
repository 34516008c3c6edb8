# SPDX-License-Identifier: LGPL-2.1-or-later
"""QMP, QEMU's machine protocol: commands to QEMU, not to the guest."""

from __future__ import annotations

import json
import socket
from typing import Any

from vm.errors import VmError


class QmpError(VmError):
    """QEMU refused a command, or went away."""


class Qmp:
    """
    A QMP connection.

    :param sock: connected to QEMU's monitor
    """

    def __init__(self, sock: socket.socket, timeout: float = 10) -> None:
        self.sock = sock
        self.sock.settimeout(timeout)
        self.file = sock.makefile("rb")
        self._receive()  # the greeting
        self.execute("qmp_capabilities")

    def _receive(self) -> dict[str, Any]:
        try:
            line = self.file.readline()
        except OSError as e:
            raise QmpError(f"QEMU does not answer: {e}") from e
        if not line:
            raise QmpError("QEMU closed its monitor")
        message: dict[str, Any] = json.loads(line)
        return message

    def execute(self, command: str, *, timeout: float | None = None, **arguments: Any) -> Any:
        """
        Execute a command and return its result.

        :param timeout: seconds to wait for the result
        :raises QmpError: if QEMU says it failed
        """
        usual = self.sock.gettimeout()
        if timeout is not None:
            self.sock.settimeout(timeout)
        try:
            request = {"execute": command, "arguments": arguments}
            self.sock.sendall(json.dumps(request).encode() + b"\n")
            while True:
                message = self._receive()
                if "error" in message:
                    raise QmpError(f"{command}: {message['error'].get('desc')}")
                if "return" in message:
                    return message["return"]
        except OSError as e:
            raise QmpError(f"QEMU does not answer: {e}") from e
        finally:
            self.sock.settimeout(usual)

    def monitor(self, line: str) -> str:
        """Execute a command of QEMU's human monitor, and return what it prints."""
        arguments: dict[str, Any] = {"command-line": line}
        return str(self.execute("human-monitor-command", **arguments))

    def close(self) -> None:
        """Close the connection."""
        self.file.close()
        self.sock.close()
