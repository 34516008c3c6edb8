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
    """A value that files of one kind have, and other files do not."""

    #: The name of lsfd's column, in small letters and without the kind: ``id`` of ``EVENTFD.ID``.
    name: str
    #: One line for people, with the unit if there is one.
    help: str
    #: Gets the value from the result of :meth:`Kind.read`.
    get: Callable[[Any], Any]
    #: Whether the column ``detail`` shows it.
    shown: bool = True


class FileEnd(NamedTuple):
    """The object that a file is an end of."""

    #: An address that all ends of the object share.
    of: int
    #: Address that tells the two sides apart; files of one side are not each other's other end. 0
    #: if there are no sides.
    side: int = 0


class Kind:
    """
    A kind of file, found by its ``struct file_operations``.

    To add a kind, derive a class from this one, in a module of its own, and list the module in
    :mod:`drgn_sockets.records.kinds`.
    """

    #: The prefix of its columns: ``eventfd`` of ``eventfd.id``.
    name: ClassVar[str]
    #: Symbols of the ``struct file_operations``.
    fops: ClassVar[Sequence[str]] = ()
    fields: ClassVar[Sequence[Field]] = ()
    #: Whether ends are shown with their access mode (reading, writing).
    ends_have_modes: ClassVar[bool] = True

    def is_one(self, file: FileRecord) -> bool:
        """Whether a file with these operations is of this kind: other files may share them."""
        return True

    def read(self, file: FileRecord) -> Any:
        """
        Read the record that :attr:`fields` and :meth:`fdinfo` take their values from.

        :raises FaultError: if it cannot be read
        :raises LookupError: if a type or symbol is missing
        """
        return file

    def end(self, prog: Program, file: File) -> FileEnd | None:
        """
        Find the object that a file is an end of; ``None`` if it is no end of anything.

        :raises FaultError: if it cannot be read
        """
        return None

    def fdinfo(self, file: FileRecord, it: Any) -> Iterator[bytes]:
        """
        The lines that the kind's ``show_fdinfo()`` writes to ``/proc/PID/fdinfo/N``, with newlines.

        :param it: The result of :meth:`read`.
        :raises FaultError: if something cannot be read
        """
        yield from ()

    def words(self, it: Any) -> str:
        """The text of the column ``detail``."""
        values = ((field.name, field.get(it)) for field in self.fields if field.shown)
        return " ".join(f"{name}={plain(value)}" for name, value in values if value is not None)


def shows_fdinfo(file: FileRecord) -> bool:
    """Whether the file's operations have a function ``show_fdinfo()``."""
    return _shows_fdinfo(file.prog, file.op)


@once_per_program
def _shows_fdinfo(prog: Program, op: int) -> bool:
    offset = offsetof(prog.type("struct file_operations"), "show_fdinfo")
    try:
        return bool(prog.read_word(op + offset))
    except UNREADABLE:
        return False
