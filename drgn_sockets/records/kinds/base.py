# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kinds of files have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Callable, ClassVar, NamedTuple

from drgn import Program, offsetof

from drgn_sockets.kernel.file import File
from drgn_sockets.kernel.memory import UNREADABLE
from drgn_sockets.program import once_per_program
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.text import plain


class Field(NamedTuple):
    """What there is to know of a file of some kind, beyond what all files have."""

    #: As lsfd has it, in small letters and without the kind: ``id`` of ``EVENTFD.ID``.
    name: str
    #: One line for people, with the unit if there is one.
    help: str
    #: Its value, of what :meth:`Kind.read` gave.
    get: Callable[[Any], Any]
    #: Whether it is in the column ``detail``.
    shown: bool = True


class FileEnd(NamedTuple):
    """What a file is an end of."""

    #: Address of what all ends of it have in common.
    of: int
    #: Those of one side are not ends of each other; 0 if there are no sides.
    side: int = 0


class Kind:
    """
    A kind of file, found by its ``struct file_operations``.

    To add one is to derive a class from this, in a module of its own, and to name that module in
    :mod:`drgn_sockets.records.kinds`.
    """

    #: What stands before the names of its fields in columns: ``eventfd`` of ``eventfd.id``.
    name: ClassVar[str]
    #: Symbols of the ``struct file_operations``.
    fops: ClassVar[Sequence[str]] = ()
    fields: ClassVar[Sequence[Field]] = ()
    #: Whether it matters for what the ends of it are open.
    ends_have_modes: ClassVar[bool] = True

    def is_one(self, file: FileRecord) -> bool:
        """Whether a file with these operations is one: some kinds share them with others."""
        return True

    def read(self, file: FileRecord) -> Any:
        """
        Read what :attr:`fields` and :meth:`fdinfo` are made of.

        :raises FaultError: if it cannot be read
        :raises LookupError: if types or symbols do not lead there
        """
        return file

    def end(self, prog: Program, file: File) -> FileEnd | None:
        """
        What a file is an end of, if that is something which several files lead to.

        :raises FaultError: if it cannot be read
        """
        return None

    def fdinfo(self, file: FileRecord, it: Any) -> Iterator[bytes]:
        """
        Lines of its own in ``/proc/PID/fdinfo/N``, with their newlines, as its ``show_fdinfo()``.

        :param it: What :meth:`read` gave.
        :raises FaultError: if something cannot be read
        """
        yield from ()

    def words(self, it: Any) -> str:
        """What the column ``detail`` says."""
        values = ((field.name, field.get(it)) for field in self.fields if field.shown)
        return " ".join(f"{name}={plain(value)}" for name, value in values if value is not None)


def shows_fdinfo(file: FileRecord) -> bool:
    """Whether the file's operations have lines of their own to show in fdinfo."""
    return _shows_fdinfo(file.prog, file.op)


@once_per_program
def _shows_fdinfo(prog: Program, op: int) -> bool:
    offset = offsetof(prog.type("struct file_operations"), "show_fdinfo")
    try:
        return bool(prog.read_word(op + offset))
    except UNREADABLE:
        return False
