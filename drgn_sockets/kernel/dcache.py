# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of open files, as ``d_path()`` gives them to ``readlink /proc/PID/fd/N``."""

from __future__ import annotations

from collections.abc import Iterable

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.lost import Lost, as_fault, or_lost, present, unreadable
from drgn_sockets.kernel.memory import read_bytes, read_pointers, read_string
from drgn_sockets.kernel.structs import Bytes, Int, Struct
from drgn_sockets.kernel.symbols import symbol_name

# A path has at most PATH_MAX bytes, so at most half as many names; mounts may be stacked on
# top of that.
_MAX_DEPTH = 8192
_NAME_MAX = 255


class Dentry(Struct):
    """``struct dentry``."""

    C_TYPE = "struct dentry"

    hash_pprev = Int("d_hash.pprev", help="NULL if the dentry is not hashed")
    parent = Int("d_parent", help="struct dentry *; itself for a root")
    name = Int("d_name.name", help="const unsigned char *")
    name_len = Int("d_name.len", help="bytes")
    inode = Int("d_inode", help="struct inode *; NULL if negative")
    # Linux kernel commit 58cf9c383c5c ("dcache: back inline names with a struct-wrapped
    # array of unsigned long") (in v6.14) made d_iname a union, d_shortname.
    shortname = Bytes("d_shortname.string", "d_iname", help="short names are kept here")
    op = Int("d_op", help="const struct dentry_operations *")
    fsdata = Int("d_fsdata", help="void *")


class Mount(Struct):
    """``struct mount``."""

    C_TYPE = "struct mount"

    parent = Int("mnt_parent", help="struct mount *; itself at the top")
    mountpoint = Int("mnt_mountpoint", help="struct dentry * in the parent")
    root = Int("mnt.mnt_root", help="struct dentry *")
    mnt_id = Int("mnt_id", help="mount ID, as in fdinfo and mountinfo")


class FsStruct(Struct):
    """``struct fs_struct``."""

    C_TYPE = "struct fs_struct"

    root_mnt = Int("root.mnt", help="struct vfsmount *")
    root_dentry = Int("root.dentry", help="struct dentry *")
    pwd_mnt = Int("pwd.mnt", help="struct vfsmount *")
    pwd_dentry = Int("pwd.dentry", help="struct dentry *")


class DnameInode(Struct):
    """Members of ``struct inode`` that names made on demand need."""

    C_TYPE = "struct inode"

    ino = Int("i_ino", help="inode number")
    private = Int("i_private", help="void *")


class Namer:
    """
    Names files, remembering the dentries and mounts that it has seen.

    Dentries of a live kernel are renamed and freed, so a namer must not be kept for long.

    :param fs: ``struct fs_struct *`` (as an integer) of the process at whose root directory paths
        begin. The default is process 1; readers of ``/proc`` mostly share its root directory.
    """

    def __init__(self, prog: Program, fs: int = 0) -> None:
        self._prog = prog
        self._dentry = Dentry.layout(prog)
        self._mount = Mount.layout(prog)
        self._mnt_offset = offsetof(prog.type("struct mount"), "mnt")
        self._shortname_offset = Dentry.layout(prog).cls.places["shortname"].offset
        self._dentries: dict[int, Dentry] = {}
        self._mounts: dict[int, Mount] = {}
        self._directories: dict[tuple[int, int], bytes | None] = {}
        self._dname: dict[int, str] = {}
        self._root = self._root_of(fs)

    def _root_of(self, fs: int) -> tuple[int, int]:
        if not fs:
            try:
                fs = self._prog["init_pid_ns"].child_reaper.fs.value_()
            except (LookupError, FaultError):
                # Paths then begin at the root of the tree of mounts, mostly the same directory.
                return 0, 0
        found = or_lost(FsStruct.layout(self._prog).read, fs)
        return (0, 0) if isinstance(found, Lost) else (found.root_dentry, found.root_mnt)

    def forget(self) -> None:
        """Forget all dentries and mounts: on a live kernel they may be others by now."""
        for known in (self._dentries, self._mounts, self._directories):
            known.clear()

    def prefetch(self, dentries: Iterable[int]) -> None:
        """Read *dentries* (``struct dentry *`` as integers) at once, in address order."""
        wanted = [d for d in dentries if d and d not in self._dentries]
        # A dentry that cannot be read is left out; dentry() raises for it.
        for dentry in present(self._dentry.read_many(wanted)):
            self._dentries[dentry.address] = dentry

    def dentry(self, address: int) -> Dentry:
        """
        Read a dentry.

        :raises FaultError: if it cannot be read
        """
        dentry = self._dentries.get(address)
        if dentry is None:
            dentry = self._dentries[address] = self._dentry.read(address)
        return dentry

    def mount(self, vfsmount: int) -> Mount:
        """
        Read the mount around a ``struct vfsmount *``, as ``real_mount()``.

        :raises FaultError: if it cannot be read
        """
        return self._real_mount(vfsmount - self._mnt_offset)

    def _real_mount(self, address: int) -> Mount:
        mount = self._mounts.get(address)
        if mount is None:
            mount = self._mount.read(address)
            if not mount.root:
                raise as_fault(Lost(Mount.C_TYPE, address, "it has no root"))
            self._mounts[address] = mount
        return mount

    def last_name(self, address: int) -> bytes:
        """
        The name of a dentry in its directory. The dentry of a socket has the name of its protocol.

        :param address: ``struct dentry *`` as an integer
        :raises FaultError: if it cannot be read
        """
        return self._name(self.dentry(address))

    def _name(self, dentry: Dentry) -> bytes:
        length = dentry.name_len
        if dentry.name == dentry.address + self._shortname_offset and length < len(
            dentry.shortname
        ):
            return dentry.shortname[:length]
        if length > _NAME_MAX:
            # Only names made for anonymous files (memfd) may be longer, and not by much.
            length = min(length, 4096)
        name = read_bytes(self._prog, dentry.name, length, "name of struct dentry")
        if name is None:
            raise unreadable("name of struct dentry", dentry.address)
        return name

    def d_path(self, mnt: int, address: int) -> bytes:
        """
        The name of an open file, as ``d_path()`` in fs/d_path.c.

        :param mnt: ``struct vfsmount *`` as an integer
        :param address: ``struct dentry *`` as an integer
        :raises FaultError: if something on the way cannot be read
        """
        dentry = self.dentry(address)
        is_root = dentry.parent == address
        if dentry.op:
            function = self._d_dname(dentry.op)
            if function and not (is_root and self.mount(mnt).root == address):
                return self._dynamic_name(function, dentry)
        if is_root or dentry.hash_pprev:
            return self._prepend_path(mnt, address)
        return self._prepend_path(mnt, address) + b" (deleted)"

    def _prepend_path(self, vfsmount: int, address: int) -> bytes:
        dentry = self.dentry(address)
        # Files of a directory share its path, so the path is kept. A directory has another path in
        # another mount, so the mount is part of the key.
        if dentry.parent != address and self.mount(vfsmount).root != address:
            key = (vfsmount, dentry.parent)
            if (address, vfsmount) == self._root:
                return b"/"
            if key not in self._directories:
                self._directories[key] = self._walk_up(vfsmount, dentry.parent)
            directory = self._directories[key]
            return b"/" if directory is None else directory + b"/" + self._name(dentry)
        return self._walk_up(vfsmount, address) or b"/"

    def _walk_up(self, vfsmount: int, address: int) -> bytes | None:
        """The path without its slash at the end, or ``None`` if it leads out of its mount."""
        names: list[bytes] = []
        mount_address = vfsmount - self._mnt_offset
        mount = self._real_mount(mount_address)
        for _ in range(_MAX_DEPTH):
            if (address, mount_address + self._mnt_offset) == self._root:
                break
            dentry = self.dentry(address)
            if address == mount.root:
                if mount.parent == mount_address:
                    # The top of this tree of mounts: absolute, detached, or not ours.
                    break
                address = mount.mountpoint
                mount_address = mount.parent
                mount = self._real_mount(mount_address)
                continue
            if dentry.parent == address:
                # The directory was moved out of the source of its bind mount. The kernel then
                # discards the names that it has found so far.
                return None
            names.append(self._name(dentry))
            address = dentry.parent
        else:
            raise FaultError("dentries form a loop", address)
        names.append(b"")
        return b"/".join(reversed(names))

    def _d_dname(self, op: int) -> str:
        name = self._dname.get(op)
        if name is None:
            type_ = self._prog.type("struct dentry_operations")
            try:
                (function,) = read_pointers(self._prog, op + offsetof(type_, "d_dname"), 1)
            except FaultError:
                raise unreadable("struct dentry_operations", op) from None
            name = self._dname[op] = (
                (symbol_name(self._prog, function) or "unknown") if function else ""
            )
        return name

    def _dynamic_name(self, function: str, dentry: Dentry) -> bytes:
        if function == "simple_dname":
            # Shared memory, memfd, hugetlb: files that never had a directory.
            return b"/" + self._name(dentry) + b" (deleted)"
        if function == "anon_inodefs_dname":
            return b"anon_inode:" + self._name(dentry)
        if function == "pidfs_dname":
            return b"anon_inode:[pidfd]"
        if function == "dmabuffs_dname":
            return b"/" + self._name(dentry) + b":" + (self._dma_buf_name(dentry) or b"")
        inode = DnameInode.layout(self._prog).read(dentry.inode)
        if function == "sockfs_dname":
            return b"socket:[%d]" % inode.ino
        if function == "pipefs_dname":
            return b"pipe:[%d]" % inode.ino
        if function == "ns_dname":
            return b"%b:[%d]" % (self._ns_name(dentry, inode), inode.ino)
        return b"%b:[%d]" % (function.encode(), inode.ino)

    def _ns_name(self, dentry: Dentry, inode: DnameInode) -> bytes:
        prog = self._prog
        ns = prog.type("struct ns_common")
        ops = prog.read_word(inode.private + offsetof(ns, "ops"))
        name = prog.read_word(ops + offsetof(prog.type("struct proc_ns_operations"), "name"))
        return read_string(prog, name, 64) or b"?"

    def _dma_buf_name(self, dentry: Dentry) -> bytes | None:
        prog = self._prog
        try:
            name = prog.read_word(dentry.fsdata + offsetof(prog.type("struct dma_buf"), "name"))
        except LookupError:
            return None
        return read_string(prog, name, 32)
