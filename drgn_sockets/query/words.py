# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The words by which users name sockets, files and processes.

This is their one grammar, for every command::

    181:3                           file descriptor 3 of process 181
    4711                            a number: a process ID or an inode, see Number
    socket:[21189]                  the socket with that inode
    :22  :ssh  *:22                 sockets with that port at either end
    10.0.0.1:22  [::1]:22           sockets with that address and port at one end
    10.0.0.1:*  [::1]:*             sockets with that address
    /run/x  ./x  ../x               a path
    @name                           an abstract unix socket
    0xffff888001234500              a kernel address
    ffff888001234500                the same, as %p prints it
    sshd                            a name: a command or a unix socket, see Name

:mod:`drgn_sockets.query.find` finds what a word names on a machine.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple, Union

from drgn import FaultError, Object, Type, TypeKind

from drgn_sockets.errors import UserError
from drgn_sockets.kernel.lost import lost_by


class Descriptor(NamedTuple):
    """``PID:FD``."""

    text: str
    pid: int
    fd: int


class Number(NamedTuple):
    """
    A number alone. Commands about processes (``fds``) take it for a process ID, commands about
    sockets (``peer``, ``tcp``) for an inode.
    """

    text: str
    number: int

    def as_inode(self) -> Inode:
        """Get the inode that the number is to commands about sockets."""
        return Inode(self.text, self.number, None, True)


class Inode(NamedTuple):
    """``socket:[INO]``, or what ``--inode`` takes: ``INO`` or ``MAJOR:MINOR:INO``."""

    text: str
    ino: int
    #: The kernel's ``dev_t`` of its file system, ``None`` for any.
    dev: int | None = None
    #: Whether it is a socket's.
    is_socket: bool = False


class End(NamedTuple):
    """``[ADDRESS]:PORT``: an end of a socket, local or remote."""

    text: str
    #: IP address without brackets, ``None`` for any.
    address: str | None
    #: Number or name of a port, ``None`` for any.
    port: str | None


class Path(NamedTuple):
    """``/…``, ``./…`` or ``../…``."""

    text: str
    path: bytes


class Abstract(NamedTuple):
    """``@NAME``: a unix socket in the abstract namespace."""

    text: str
    #: As it was written, with the ``@``.
    name: bytes


class Address(NamedTuple):
    """A kernel address."""

    text: str
    address: int
    #: C type of what is there, one of :data:`TYPES`; ``None`` if that is not known.
    type: str | None = None


class Name(NamedTuple):
    """
    Anything else. Commands about processes take it for a command name, commands about sockets for
    the name of a unix socket that was bound to a relative path.
    """

    text: str
    name: bytes


#: What :func:`parse_word` makes of a word.
Word = Union[Descriptor, Number, Inode, End, Path, Abstract, Address, Name]

#: C types of objects in the kernel that a word can be.
TYPES = ("struct sock", "struct socket", "struct file", "struct inode", "struct task_struct")

# No ID, inode or port has more digits.
_NUMBER = "[0-9]{1,32}"
# 16 digits would be a possible inode, but no kernel has counted so far.
_ADDRESS = re.compile(r"0[xX]([0-9a-fA-F]{1,16})|([0-9a-fA-F]{16})")
_DESCRIPTOR = re.compile(f"({_NUMBER}):({_NUMBER})")
_SOCKET = re.compile(rf"socket:\[({_NUMBER})\]")
_INODE = re.compile(f"(?:({_NUMBER}):({_NUMBER}):)?({_NUMBER})")
_END = re.compile(r"(|\*|[0-9.]+|\[[0-9A-Fa-f:.]+\]):(\w[\w.+-]*|\*)")
_PATHS = ("/", "./", "../")
# struct tcp6_sock, tcp_sock, inet_connection_sock, inet_sock, sock: no chain is as long as this.
_MAX_NESTING = 16


def parse_word(what: str | int | Object | Word) -> Word:
    """
    Tell what a word is.

    >>> parse_word("181:3")
    Descriptor(text='181:3', pid=181, fd=3)
    >>> parse_word("[::1]:https")
    End(text='[::1]:https', address='::1', port='https')
    >>> parse_word(prog["init_task"].address_of_())
    Address(text='0xffffffff82a14900', address=18446744071605832960, type='struct task_struct')

    :param what: Text; or, in the REPL, a kernel address as an integer, or an object: a
        ``struct sock``, ``struct socket``, ``struct file``, ``struct inode`` or
        ``struct task_struct``, a structure that begins with one of these (``struct tcp_sock``), or
        a pointer to one; or a word, which is returned
    :raises UserError: for an object of another type, or text that cannot be a name
    """
    if isinstance(what, Object):
        return _object_word(what)
    if isinstance(what, int):
        return _address_word(what, None)
    if not isinstance(what, str):
        return what
    match = _ADDRESS.fullmatch(what)
    if match:
        return Address(what, int(match[1] or match[2], 16))
    if re.fullmatch(_NUMBER, what):
        return Number(what, int(what))
    match = _DESCRIPTOR.fullmatch(what)
    if match:
        return Descriptor(what, int(match[1]), int(match[2]))
    match = _SOCKET.fullmatch(what)
    if match:
        return Inode(what, int(match[1]), None, True)
    match = _END.fullmatch(what)
    if match:
        host, port = match[1], match[2]
        address = None if host in ("", "*") else host.strip("[]")
        return End(what, address, None if port == "*" else port)
    if what.startswith(_PATHS):
        if "\0" in what:
            raise UserError(f"no path: {what!r} has a NUL in it")
        return Path(what, encoded(what))
    if what.startswith("@"):
        return Abstract(what, encoded(what))
    return Name(what, encoded(what))


def parse_inode(text: str, *, devices: bool = True) -> Inode:
    """
    Tell what ``--inode`` is given: ``4711``, ``socket:[4711]``, or ``MAJOR:MINOR:4711``.

    :param devices: Whether the last of these makes sense.
    :raises UserError: if it is none of these
    """
    word = parse_word(text)
    if isinstance(word, Inode):
        return word
    match = _INODE.fullmatch(text)
    if match is None or (match[1] and not devices):
        also = "MAJOR:MINOR:4711" if devices else "socket:[4711]"
        raise UserError(f"no inode: {text!r}; --inode takes 4711 or {also}")
    # include/linux/kdev_t.h: MKDEV()
    dev = int(match[1]) << 20 | int(match[2]) if match[1] else None
    return Inode(text, int(match[3]), dev)


def parse_pid(text: str, hint: str = "--pid takes numbers") -> Number:
    """
    Tell what ``--pid`` is given.

    :param hint: What to do instead, for the error
    :raises UserError: if it is no number
    """
    word = parse_word(text)
    if not isinstance(word, Number):
        raise UserError(f"no process ID: {text!r}; {hint}")
    return word


def parse_address(text: str) -> Address:
    """
    Tell what ``--addr`` is given.

    :raises UserError: if it is no kernel address
    """
    word = parse_word(text)
    if not isinstance(word, Address):
        raise UserError(f"not a kernel address: {text!r}; give it as 0xffff…")
    return word


def parse_port(text: str) -> End:
    """
    Tell what ``--port`` is given.

    :raises UserError: if it is no number or name of a port
    """
    word = parse_word(f":{text}")
    if not isinstance(word, End) or word.port is None:
        raise UserError(f"no port: {text!r}; --port takes 443 or https")
    return word


def encoded(text: str) -> bytes:
    """
    Get the bytes that the kernel has for a name, which may be of no encoding.

    :raises UserError: if there are none: text of the REPL may be any
    """
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        raise UserError(f"no name: {text!r} cannot be encoded") from None


def number(text: str) -> int | None:
    """Parse a decimal number, ``None`` if it is none or longer than any ID."""
    return int(text) if re.fullmatch(_NUMBER, text) else None


def _address_word(address: int, type_: str | None) -> Address:
    if isinstance(address, bool) or not 0 < address < 1 << 64:
        raise UserError(f"not a kernel address: {address!r}")
    return Address(f"{address:#x}", address, type_)


def _object_word(obj: Object) -> Address:
    type_ = _plain_type(obj.type_)
    try:
        if type_.kind == TypeKind.INT:
            return _address_word(obj.value_(), None)
        if type_.kind == TypeKind.POINTER:
            address, target = obj.value_(), _plain_type(type_.type)
        else:
            address, target = obj.address_, type_
    except FaultError as e:
        raise UserError(f"the object cannot be read: {lost_by(e)}") from None
    if target.kind == TypeKind.VOID:
        return _address_word(address, None)
    name = _begins_with(target)
    if name is None:
        raise UserError(
            f"{obj.type_.type_name()!r} does not name a socket, file or process; "
            f"these do: {', '.join(TYPES)}, pointers to them, and integers for their addresses"
        )
    if not address:
        why = "is NULL" if address == 0 else "is a value, which has no address"
        raise UserError(f"{obj.type_.type_name()!r} {why}")
    return _address_word(address, name)


def _plain_type(type_: Type) -> Type:
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    return type_


def _begins_with(type_: Type) -> str | None:
    """Which of :data:`TYPES` a structure is, or has as its first member."""
    for _ in range(_MAX_NESTING):
        if type_.kind != TypeKind.STRUCT:
            return None
        name = f"struct {type_.tag}"
        if name in TYPES:
            return name
        if name == "struct sock_common":
            # Timewait and request sockets have no more of a struct sock.
            return "struct sock"
        if not type_.members:
            return None
        type_ = _plain_type(type_.members[0].type)
    return None
