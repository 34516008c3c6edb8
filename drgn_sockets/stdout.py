# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Standard output of a command: characters that its encoding lacks, readers that go away, and disks
that fill up.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
import sys
from typing import Any, TextIO

_BUFFER = 1 << 16


class _Output(io.FileIO):
    """
    Standard output that ends with a whole line.

    When the disk is full, the part of the last line that was written is cut off the file again.
    """

    #: Bytes written of the line that has not ended yet.
    _begun = 0
    #: The error that ended the output. Later writes would begin within a line and raise it again.
    failed: OSError | None = None

    @classmethod
    def of(cls, stdout: TextIO) -> TextIO | None:
        """Standard output as a stream of this kind, if it is a file, a pipe or a terminal."""
        try:
            fd = stdout.fileno()
        except (OSError, ValueError):
            return None
        return io.TextIOWrapper(
            io.BufferedWriter(cls(fd, "w", closefd=False), _BUFFER),
            encoding=stdout.encoding,
            line_buffering=stdout.isatty(),
        )

    def write(self, data: Any) -> int:
        if self.failed is not None:
            raise self.failed
        try:
            written = super().write(data)
        except OSError as e:
            self.failed = e
            self._take_back()
            raise
        if written:
            end = bytes(data[:written]).rfind(b"\n")
            self._begun = written - end - 1 if end >= 0 else self._begun + written
        return written

    def _take_back(self) -> None:
        try:
            status = os.fstat(self.fileno())
            # Other processes may have appended to the file; then nothing is cut off.
            if stat.S_ISREG(status.st_mode) and status.st_size == self.tell():
                os.ftruncate(self.fileno(), status.st_size - self._begun)
        except OSError:
            # The part of a line stays in the file.
            pass


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    # The escapes of drgn_sockets.text. "backslashreplace" would write U+00E9 as \\xe9, which is
    # the escape of the byte 0xE9.
    codes = map(ord, error.object[error.start : error.end])
    return "".join(f"\\u{c:04x}" if c <= 0xFFFF else f"\\U{c:08x}" for c in codes), error.end


def prepare(*, replace: bool) -> None:
    """
    Prepare ``sys.stdout`` for the output of a command.

    :param replace: Put a :class:`_Output` in its place if it is a file, a pipe or a terminal: for
        a process that runs nothing else.
    """
    if sys.stdout is None:
        # The shell closed it (>&-).
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    elif replace:
        sys.stdout = _Output.of(sys.stdout) or sys.stdout
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names may have characters that the encoding of the terminal lacks.
        codecs.register_error("drgn_sockets", _escape_unencodable)
        sys.stdout.reconfigure(errors="drgn_sockets")


def flush() -> None:
    """Flush ``sys.stdout``; drop what cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        drop()


def drop() -> None:
    """Drop what is left to be written, so that Python does not complain of it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Output):
        raw.failed = None
