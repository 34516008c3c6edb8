# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open files: ``struct file``, its inode, and what kind of file it is."""

from __future__ import annotations

import stat
from collections.abc import Iterable

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.fcntl import O_PATH
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.memory import read_pointers
from drgn_sockets.kernel.module import module_symbol_name
from drgn_sockets.kernel.structs import CString, Int, Struct
from drgn_sockets.kernel.symbols import symbol_name
from drgn_sockets.program import once_per_program

# Per-CPU variables have symbols from 0 on.
_MIN_OP = 1 << 32

# include/linux/fs.h
FMODE_READ = 0x1
FMODE_WRITE = 0x2
FMODE_NOACCOUNT = 1 << 29
# FMODE_BACKING came as bit 25 (in v6.5) and moved to bit 24 when FMODE_NONOTIFY took its place (in
# v6.14, and in stable kernels before that). No type tells which bit it is; both have had other
# meanings.
MAYBE_FMODE_BACKING = 1 << 24 | 1 << 25


class File(Struct):
    """``struct file``."""

    C_TYPE = "struct file"

    mnt = Int("f_path.mnt", help="struct vfsmount *")
    dentry = Int("f_path.dentry", help="struct dentry *")
    inode = Int("f_inode", help="struct inode *")
    op = Int("f_op", help="const struct file_operations *")
    flags = Int("f_flags", help="O_* flags, without O_CLOEXEC, which belongs to the fd")
    mode = Int("f_mode", help="FMODE_* flags")
    pos = Int("f_pos", help="position, bytes")
    private_data = Int("private_data", help="void *, by file operations")
    # Linux kernel commit 319c15174757 ("epoll: take epitem list out of struct file") (in v5.11)
    ep = Int("f_ep", "f_ep_links.next", help="struct hlist_head * of epoll's items, or a list")


class Inode(Struct):
    """``struct inode``."""

    C_TYPE = "struct inode"

    mode = Int("i_mode", help="S_IF* type and permissions")
    ino = Int("i_ino", help="inode number")
    uid = Int("i_uid.val", help="owner, in the initial user namespace")
    nlink = Int("i_nlink", help="number of names")
    rdev = Int("i_rdev", help="device number of a device file")
    size = Int("i_size", help="bytes")
    sb = Int("i_sb", help="struct super_block *")


class SuperBlock(Struct):
    """``struct super_block``."""

    C_TYPE = "struct super_block"

    dev = Int("s_dev", help="device number")
    type = Int("s_type", help="struct file_system_type *")
    bdev = Int("s_bdev", help="struct block_device *, NULL for a file system on none")
    id = CString("s_id", help="name of the block device")


class FileSystemType(Struct):
    """``struct file_system_type``."""

    C_TYPE = "struct file_system_type"

    name = Int("name", help="const char *")


class _FileOperations(Struct):
    C_TYPE = "struct file_operations"

    owner = Int("owner", help="struct module *")


class _BackingFile(Struct):
    C_TYPE = "struct backing_file"

    # Linux kernel commit def3ae83da02 ("fs: store real path instead of fake path in backing
    # file f_path") (in v6.7). Before, f_path was the path that the user opened.
    mnt = Int("user_path.mnt", help="struct vfsmount *")
    dentry = Int("user_path.dentry", help="struct dentry *")


class _VfsMount(Struct):
    C_TYPE = "struct vfsmount"

    sb = Int("mnt_sb", help="struct super_block *")


class _DentrySb(Struct):
    C_TYPE = "struct dentry"

    sb = Int("d_sb", help="struct super_block *")


def file_user_path(prog: Program, file: File) -> tuple[int, int] | None:
    """
    The path that a user opened, for a file that a file system (an overlay) opened in another one.

    :return: ``struct vfsmount *`` and ``struct dentry *`` as integers; ``None`` where ``f_path`` is
        the user's path
    """
    if not file.mode & MAYBE_FMODE_BACKING:
        return None
    try:
        backing = _BackingFile.layout(prog).follow(file.address)
    except LookupError:
        return None
    # The struct file may not be in a struct backing_file; the memory behind it then holds no path.
    # In 6.18 that is 8 bytes of padding, where mnt would be, and the next struct file.
    mount = backing and _VfsMount.layout(prog).follow(backing.mnt)
    if not backing or not mount or not mount.sb:
        return None
    dentry = _DentrySb.layout(prog).follow(backing.dentry)
    if not dentry or mount.sb != dentry.sb:
        return None
    return backing.mnt, backing.dentry


def is_polled(prog: Program, file: File) -> bool:
    """Whether an epoll watches an open file."""
    if File.layout(prog).cls.places["ep"].path == "f_ep":
        # f_ep may point to an empty list.
        return bool(file.ep and read_pointers(prog, file.ep, 1)[0])
    head = offsetof(prog.type("struct file"), "f_ep_links")
    return bool(file.ep) and file.ep != file.address + head


def bad_operations(prog: Program, ops: Iterable[int]) -> list[Lost]:
    """
    Find what cannot be file operations among the ``f_op`` of open files, each of which has some.

    :param ops: ``const struct file_operations *`` as integers
    """
    some = _FileOperations.layout(prog).read_many(set(ops))
    bad = [one for one in some if isinstance(one, Lost)]
    # A core may lack the page of operations that a symbol shows to be there.
    return [one for one in bad if one.address < _MIN_OP or not _has_symbol(prog, one.address)]


def _has_symbol(prog: Program, address: int) -> bool:
    try:
        return bool(symbol_name(prog, address) or module_symbol_name(prog, address))
    except FaultError:
        # It may be one of a module.
        return True


def major(dev: int) -> int:
    """``MAJOR()`` of a ``dev_t`` as the kernel keeps it (include/linux/kdev_t.h)."""
    return dev >> 20


def minor(dev: int) -> int:
    """``MINOR()`` of a ``dev_t`` as the kernel keeps it."""
    return dev & 0xFFFFF


def access_mode(flags: int, mode: int) -> str:
    """
    Get the letter of an access mode: ``r``, ``w``, ``u`` (read and write, as in lsof), ``-`` for
    neither, ``p`` for ``O_PATH``.

    >>> access_mode(os.O_RDWR, FMODE_READ | FMODE_WRITE)
    'u'
    """
    if flags & O_PATH:
        return "p"
    return ("-", "r", "w", "u")[mode & (FMODE_READ | FMODE_WRITE)]


@once_per_program
def socket_file_ops(prog: Program) -> int:
    """
    Address of ``socket_file_ops`` (net/socket.c), which tells that a file is a socket.

    :raises LookupError: if the symbol is not found
    """
    return prog.symbol("socket_file_ops").address  # type: ignore[no-any-return]


_KINDS = {
    stat.S_IFREG: "reg",
    stat.S_IFDIR: "dir",
    stat.S_IFCHR: "chr",
    stat.S_IFBLK: "blk",
    stat.S_IFIFO: "fifo",
    stat.S_IFLNK: "lnk",
    stat.S_IFSOCK: "sock",
}


def file_kind(i_mode: int, name: bytes, is_socket: bool) -> str:
    """
    Get the kind of a file: ``sock``, ``pipe``, ``fifo``, ``reg``, ``dir``, ``chr``, ``blk``,
    ``lnk``, ``sockfile`` (an ``O_PATH`` fd of a unix socket's file), ``memfd``, ``dmabuf``, ``ns``,
    or the name that an anonymous inode has: ``eventfd``, ``eventpoll``, ``timerfd``, ….
    """
    if name.startswith(b"anon_inode:"):
        kind = name[len(b"anon_inode:") :].strip(b"[]").decode("utf-8", "backslashreplace")
        # kvm-vcpu:3 is of the kind kvm-vcpu.
        kind = kind.rstrip("0123456789").rstrip(":") if ":" in kind else kind
        # The kernel made the name, so it is printable unless the dentry is damaged.
        return kind if kind and kind.isprintable() else "anon_inode"
    kind = _KINDS.get(stat.S_IFMT(i_mode), "unknown")
    if kind == "sock":
        return "sock" if is_socket else "sockfile"
    if kind == "unknown" and name.startswith(b"/dmabuf:"):
        # The inode of a DMA buffer has no file type.
        return "dmabuf"
    if kind == "fifo" and name.startswith(b"pipe:["):
        return "pipe"
    if kind == "reg":
        if name.startswith(b"/memfd:"):
            return "memfd"
        if not name.startswith(b"/") and name.endswith(b"]"):
            return "ns"
    return kind
