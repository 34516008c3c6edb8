# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open files: ``struct file``, its inode, and what kind of file it is."""

from __future__ import annotations

import stat

from drgn import Program

from drgn_sockets.kernel.structs import Int, Struct

# include/uapi/asm-generic/fcntl.h
O_ACCMODE = 0o3
O_CLOEXEC = 0o2000000
O_PATH = 0o10000000

#: Names of ``f_flags``; where one includes another's bit, it comes first.
OPEN_FLAGS = (
    (0o20200000, "TMPFILE"),
    (0o4010000, "SYNC"),
    (0o100, "CREAT"),
    (0o200, "EXCL"),
    (0o400, "NOCTTY"),
    (0o1000, "TRUNC"),
    (0o2000, "APPEND"),
    (0o4000, "NONBLOCK"),
    (0o10000, "DSYNC"),
    (0o20000, "ASYNC"),
    (0o40000, "DIRECT"),
    (0o100000, "LARGEFILE"),
    (0o200000, "DIRECTORY"),
    (0o400000, "NOFOLLOW"),
    (0o1000000, "NOATIME"),
    (0o2000000, "CLOEXEC"),
    (0o10000000, "PATH"),
)

# include/linux/fs.h
FMODE_READ = 0x1
FMODE_WRITE = 0x2


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


class Inode(Struct):
    """``struct inode``."""

    C_TYPE = "struct inode"

    mode = Int("i_mode", help="S_IF* type and permissions")
    ino = Int("i_ino", help="inode number")
    uid = Int("i_uid.val", help="owner, in the initial user namespace")
    rdev = Int("i_rdev", help="device number of a device file")
    sb = Int("i_sb", help="struct super_block *")


class SuperBlock(Struct):
    """``struct super_block``."""

    C_TYPE = "struct super_block"

    dev = Int("s_dev", help="device number")


def major(dev: int) -> int:
    """``MAJOR()`` of a ``dev_t`` as the kernel keeps it (include/linux/kdev_t.h)."""
    return dev >> 20


def minor(dev: int) -> int:
    """``MINOR()`` of a ``dev_t`` as the kernel keeps it."""
    return dev & 0xFFFFF


def access_mode(flags: int, mode: int) -> str:
    """
    How a file was opened: ``r``, ``w``, ``u`` (read and write, as lsof says), ``-`` for
    neither, ``p`` for ``O_PATH``.
    """
    if flags & O_PATH:
        return "p"
    return ("-", "r", "w", "u")[mode & (FMODE_READ | FMODE_WRITE)]


def flag_names(flags: int) -> list[str]:
    """Names of the ``O_*`` bits of *flags*, access mode left out; what has none in octal."""
    names = []
    rest = flags & ~O_ACCMODE
    for bits, name in OPEN_FLAGS:
        if rest & bits == bits:
            names.append(name)
            rest &= ~bits
    if rest:
        names.append(f"0{rest:o}")
    return names


def socket_file_ops(prog: Program) -> int:
    """Address of ``socket_file_ops`` (net/socket.c), which tells that a file is a socket."""
    address = prog.cache.get("drgn_sockets.socket_file_ops")
    if address is None:
        address = prog.symbol("socket_file_ops").address
        prog.cache["drgn_sockets.socket_file_ops"] = address
    return address  # type: ignore[no-any-return]


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
    What kind of file it is: ``sock``, ``pipe``, ``fifo``, ``reg``, ``dir``, ``chr``, ``blk``,
    ``lnk``, ``sockfile`` (an ``O_PATH`` fd of a unix socket's file), ``memfd``, ``dmabuf``, ``ns``,
    or what an anonymous inode calls itself: ``eventfd``, ``eventpoll``, ``timerfd``, ….
    """
    if name.startswith(b"anon_inode:"):
        kind = name[len(b"anon_inode:") :].strip(b"[]").decode("utf-8", "backslashreplace")
        # A word of the kernel's own, unless the dentry is damaged.
        return kind if kind and kind.isprintable() else "anon_inode"
    kind = _KINDS.get(stat.S_IFMT(i_mode), "unknown")
    if kind == "sock":
        return "sock" if is_socket else "sockfile"
    if kind == "unknown" and name.startswith(b"/dmabuf:"):
        # Its inode has no type.
        return "dmabuf"
    if kind == "fifo" and name.startswith(b"pipe:["):
        return "pipe"
    if kind == "reg":
        if name.startswith(b"/memfd:"):
            return "memfd"
        if not name.startswith(b"/") and name.endswith(b"]"):
            return "ns"
    return kind
