# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's prompt on a terminal."""

from __future__ import annotations

import errno
import os
import pty
import re
import select
import shutil
import signal
import sys
import time
from pathlib import Path

#: The one of this Python.
DRGN = shutil.which("drgn", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "drgn"
_PROMPT = ">>> "
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


class Repl:
    """A person at drgn's prompt: types a line, reads what comes."""

    def __init__(self, cwd: Path, *options: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.environ.update(TERM="dumb", PYTHONUNBUFFERED="1", HOME=str(cwd))
            os.execvp(DRGN, [DRGN, "-q", *options])
        self.banner = self._until_prompt()

    def _until_prompt(self) -> str:
        data = b""
        deadline = time.monotonic() + 300
        while not data.endswith(_PROMPT.encode()):
            assert time.monotonic() < deadline, data
            if select.select([self.fd], [], [], 1)[0]:
                try:
                    data += os.read(self.fd, 1 << 16)
                except OSError as e:
                    assert e.errno == errno.EIO
                    raise AssertionError(f"drgn ended: {data!r}") from None
        return _ESCAPES.sub("", data.decode())[: -len(_PROMPT)]

    def send(self, line: str) -> None:
        """Type a line, and do not wait."""
        os.write(self.fd, line.encode() + b"\n")

    def type(self, line: str) -> str:
        """Type a line; what is printed up to the next prompt, without the echo."""
        self.send(line)
        return self._until_prompt().partition("\n")[2]

    def interrupt(self) -> str:
        """Press Ctrl-C; what is printed up to the next prompt."""
        os.write(self.fd, b"\x03")
        return self._until_prompt()

    def close(self) -> None:
        """End it."""
        os.close(self.fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
