# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Is a file called what ``d_path()`` (fs/d_path.c) would call it?

What is expected is written out by hand from that function.
"""

from __future__ import annotations

from typing import Any

import pytest
from drgn import FaultError

from drgn_sockets.kernel.dcache import Namer
from drgn_sockets.kernel.file import access_mode, file_kind, major, minor

from .fake_kernel import FakeKernel

INLINE = 40
BAD = 0xDEAD000000000100


class Tree:
    """Dentries and mounts."""

    def __init__(self, *, old: bool = False) -> None:
        self.kernel = k = FakeKernel()
        hlist = k.struct("hlist_bl_node", ("next", k.ptr), ("pprev", k.ptr))
        qstr = k.struct(
            "qstr", (None, k.struct(None, ("hash", k.u32), ("len", k.u32))), ("name", k.ptr)
        )
        text = k.array(k.u8, INLINE)
        short: Any = ("d_iname", text)
        if not old:
            words = k.array(k.ulong, INLINE // 8)
            short = ("d_shortname", k.union("shortname_store", ("string", text), ("words", words)))
        self.dentry_type = k.struct(
            "dentry",
            ("d_flags", k.u32),
            ("d_hash", hlist),
            ("d_parent", k.ptr),
            ("d_name", qstr),
            ("d_inode", k.ptr),
            short,
            ("d_op", k.ptr),
            ("d_fsdata", k.ptr),
        )
        self.short = 56
        vfsmount = k.struct("vfsmount", ("mnt_root", k.ptr), ("mnt_sb", k.ptr))
        self.mount_type = k.struct(
            "mount",
            ("mnt_hash", hlist),
            ("mnt_parent", k.ptr),
            ("mnt_mountpoint", k.ptr),
            ("mnt", vfsmount),
            ("mnt_id", k.s32),
        )
        path = k.struct("path", ("mnt", k.ptr), ("dentry", k.ptr))
        self.fs_type = k.struct("fs_struct", ("users", k.s32), ("root", path), ("pwd", path))
        self.inode = k.struct("inode", ("i_mode", k.u16), ("i_ino", k.ulong), ("i_private", k.ptr))
        self.ops = k.struct("dentry_operations", ("d_hash", k.ptr), ("d_dname", k.ptr))
        self.root = self.dentry(b"/", 0)
        self.mnt = self.mount(self.root)
        fs = self.fs(self.root, self.mnt)
        task = k.struct("task_struct", ("pid", k.s32), ("fs", k.pointer(self.fs_type)))
        pid_namespace = k.struct("pid_namespace", ("child_reaper", k.pointer(task)))
        init = k.new(task, {"pid": 1, "fs": fs})
        k.variable("init_pid_ns", pid_namespace, {"child_reaper": init})

    def fs(self, dentry: int, mnt: int) -> int:
        return self.kernel.new(self.fs_type, {"root": {"mnt": mnt, "dentry": dentry}})

    def dentry(
        self,
        name: bytes,
        parent: int,
        *,
        hashed: bool = True,
        length: int | None = None,
        at: int | None = None,
        op: int = 0,
        inode: int = 0,
        fsdata: int = 0,
    ) -> int:
        """A dentry, itself its parent if that is 0; *at* is where its name is."""
        k = self.kernel
        address = k.alloc(256)
        inline = name[: INLINE - 1] if len(name) < INLINE else b"not this one"
        if at is None:
            at = address + self.short if len(name) < INLINE else k.alloc(name + b"\0")
        data = bytearray(
            k.bytes_of(
                self.dentry_type,
                {
                    "d_hash": {"pprev": 0x1234 if hashed and parent else 0},
                    "d_parent": parent or address,
                    "d_name": {"len": len(name) if length is None else length, "name": at},
                    "d_inode": inode,
                    "d_op": op,
                    "d_fsdata": fsdata,
                },
            )
        )
        data[self.short : self.short + len(inline)] = inline
        k.write(address, bytes(data))
        return address

    def path(self, *names: bytes, parent: int | None = None) -> int:
        at = self.root if parent is None else parent
        for name in names:
            at = self.dentry(name, at)
        return at

    def mount(self, root: int, parent: int = 0, mountpoint: int = 0, mnt_id: int = 20) -> int:
        """``struct vfsmount *`` of a mount; *parent* is one as well."""
        k = self.kernel
        address = k.alloc(128)
        offset = 32
        k.put(
            address,
            self.mount_type,
            {
                "mnt_parent": parent - offset if parent else address,
                "mnt_mountpoint": mountpoint or root,
                "mnt": {"mnt_root": root},
                "mnt_id": mnt_id,
            },
        )
        return address + offset

    def dynamic(self, function: str, name: bytes, **more: Any) -> int:
        """A dentry with a ``d_dname``, in a file system of the kernel's own."""
        k = self.kernel
        text = k.symbol(function, 0xFFFFFFFF81000000 + 64 * len(k._symbols), 64)
        op = k.new(self.ops, {"d_hash": 0, "d_dname": text})
        return self.dentry(name, 0, op=op, **more)

    def name(self, dentry: int, mnt: int | None = None) -> bytes:
        """Its name, the same whether the namer has seen others before or not."""
        mnt = self.mnt if mnt is None else mnt
        fresh = Namer(self.kernel.prog).d_path(mnt, dentry)
        namer = Namer(self.kernel.prog)
        namer.prefetch([dentry, self.root, 0, BAD])
        assert namer.d_path(mnt, dentry) == namer.d_path(mnt, dentry) == fresh
        return fresh


@pytest.mark.parametrize("old", [False, True])
def test_files_and_directories(old: bool) -> None:
    t = Tree(old=old)
    assert t.name(t.root) == b"/"
    etc = t.path(b"etc")
    assert t.name(etc) == b"/etc"
    assert t.name(t.path(b"passwd", parent=etc)) == b"/etc/passwd"
    assert t.name(t.path(b"a", b"b", b"c", b"d")) == b"/a/b/c/d"


def test_long_names_are_kept_elsewhere() -> None:
    t = Tree()
    for length in (1, INLINE - 2, INLINE - 1, INLINE, INLINE + 1, 255):
        name = bytes(97 + i % 26 for i in range(length))
        assert t.name(t.path(name, b"x")) == b"/" + name + b"/x"
        assert t.name(t.path(b"x", name)) == b"/x/" + name


def test_names_are_bytes() -> None:
    t = Tree()
    odd = b"new\nline\t\xff\x1b[31m \\"
    assert t.name(t.path(odd, odd)) == b"/" + odd + b"/" + odd
    # The length counts, and not a NUL.
    assert t.name(t.path(b"nul\0inside")) == b"/nul\0inside"
    # rename() from a long name to a short one keeps the long one's place for a while.
    at = t.kernel.alloc(b"short\0")
    assert t.name(t.dentry(b"short", t.root, at=at)) == b"/short"


def test_deleted() -> None:
    t = Tree()
    d = t.path(b"tmp")
    assert t.name(t.dentry(b"gone", d, hashed=False)) == b"/tmp/gone (deleted)"
    # Only the file itself is asked, not the directories above.
    removed = t.dentry(b"removed", d, hashed=False)
    assert t.name(t.dentry(b"file", removed)) == b"/tmp/removed/file"
    assert t.name(removed) == b"/tmp/removed (deleted)"
    # A root is never hashed, and not deleted.
    assert t.name(t.root) == b"/"


def test_mounts() -> None:
    t = Tree()
    mnt = t.path(b"mnt")
    first = t.dentry(b"/", 0)
    first_mnt = t.mount(first, t.mnt, mnt)
    assert t.name(first, first_mnt) == b"/mnt"
    assert t.name(t.path(b"in", b"first", parent=first), first_mnt) == b"/mnt/in/first"
    # Over the root of that mount, another; and over a directory in that.
    second = t.dentry(b"/", 0)
    second_mnt = t.mount(second, first_mnt, first)
    assert t.name(second, second_mnt) == b"/mnt"
    inner = t.path(b"inner", parent=second)
    third = t.dentry(b"/", 0)
    third_mnt = t.mount(third, second_mnt, inner)
    assert t.name(third, third_mnt) == b"/mnt/inner"
    assert t.name(t.path(b"file", parent=third), third_mnt) == b"/mnt/inner/file"
    # mount --bind of a directory, and of a file.
    bind_mnt = t.mount(inner, t.mnt, t.path(b"bound"))
    assert t.name(t.path(b"x", parent=inner), bind_mnt) == b"/bound/x"
    assert t.name(inner, bind_mnt) == b"/bound"
    assert t.name(t.path(b"x", parent=inner), second_mnt) == b"/mnt/inner/x"


def test_files_of_a_directory_in_two_mounts() -> None:
    t = Tree()
    d = t.path(b"data")
    one, two = t.path(b"1", parent=d), t.path(b"2", parent=d)
    bind_mnt = t.mount(d, t.mnt, t.path(b"bind"))
    namer = Namer(t.kernel.prog)
    assert [namer.d_path(mnt, file) for file in (one, two) for mnt in (t.mnt, bind_mnt)] == [
        b"/data/1",
        b"/bind/1",
        b"/data/2",
        b"/bind/2",
    ]


def test_escaped_from_its_mount() -> None:
    # The kernel throws away what it has, and a slash is left.
    t = Tree()
    inside = t.path(b"source", b"dir")
    mnt = t.mount(inside, t.mnt, t.path(b"bind"))
    outside = t.path(b"elsewhere", b"file")
    assert t.name(outside, mnt) == b"/"
    assert t.name(t.dentry(b"gone", outside, hashed=False), mnt) == b"/ (deleted)"


def test_a_mount_that_is_detached() -> None:
    t = Tree()
    top = t.dentry(b"/", 0)
    mnt = t.mount(top)
    assert t.name(t.path(b"a", b"b", parent=top), mnt) == b"/a/b"
    assert t.name(top, mnt) == b"/"


def test_another_root() -> None:
    t = Tree()
    jail = t.path(b"srv", b"jail")
    file = t.path(b"etc", b"hosts", parent=jail)
    namer = Namer(t.kernel.prog, t.fs(jail, t.mnt))
    assert namer.d_path(t.mnt, file) == b"/etc/hosts"
    assert namer.d_path(t.mnt, jail) == b"/"
    # Outside of it: from the top.
    assert namer.d_path(t.mnt, t.path(b"srv", b"other")) == b"/srv/other"
    # The dentry alone does not make the root: the mount does as well.
    bind_mnt = t.mount(jail, t.mnt, t.path(b"bind"))
    assert namer.d_path(bind_mnt, file) == b"/bind/etc/hosts"
    assert namer.mount(bind_mnt).mnt_id == 20


def test_without_a_root() -> None:
    # Process 1, or its fs_struct, cannot be read: names go up to the top.
    t = Tree()
    file = t.path(b"srv", b"file")
    assert Namer(t.kernel.prog, BAD).d_path(t.mnt, file) == b"/srv/file"


def test_loops_end() -> None:
    t = Tree()
    one, two = t.dentry(b"one", t.root), t.dentry(b"two", t.root)
    k = t.kernel
    for dentry, parent in ((one, two), (two, one)):
        k.write(dentry + 24, parent.to_bytes(8, "little"))
    with pytest.raises(FaultError, match="loop"):
        t.name(one)
    with pytest.raises(FaultError, match="loop"):
        t.name(t.path(b"file", parent=one))
    # Two mounts, each on the other.
    top = t.dentry(b"/", 0)
    first = t.mount(top)
    second = t.mount(top, first, top)
    k.write(first - 32 + 16, (second - 32).to_bytes(8, "little"))
    with pytest.raises(FaultError, match="loop"):
        t.name(top, first)


def test_what_cannot_be_read() -> None:
    t = Tree()
    good = t.path(b"file")
    for dentry, mnt in (
        (BAD, t.mnt),
        (0, t.mnt),
        (good, BAD),
        (good, 0),
        (t.dentry(b"x", BAD), t.mnt),
        (t.dentry(b"x", t.root, at=BAD), t.mnt),
        (t.dentry(b"x", t.root, at=2**64 - 1), t.mnt),
        (t.dentry(b"x" * 300, t.root, length=2**32 - 1), t.mnt),
        (t.path(b"y", parent=t.dentry(b"x", t.root, at=0)), t.mnt),
    ):
        with pytest.raises(FaultError):
            t.name(dentry, mnt)
    # One that failed does not spoil the next.
    assert t.name(good) == b"/file"


def test_an_absurd_length_reads_little() -> None:
    t = Tree()
    d = t.dentry(b"x", t.root, length=2**32 - 1, at=t.kernel.alloc(b"x" * (1 << 20)))
    t.kernel.reads.clear()
    assert len(t.name(d)) < 8192
    assert max(size for _, size in t.kernel.reads) <= 4096


@pytest.mark.parametrize(
    ("function", "name", "expected"),
    [
        # fs/libfs.c: simple_dname(), of memfd and SysV shared memory.
        ("simple_dname", b"memfd:x y", b"/memfd:x y (deleted)"),
        ("simple_dname", b"SYSV00000000", b"/SYSV00000000 (deleted)"),
        ("simple_dname", b"memfd:" + b"n" * 249, b"/memfd:" + b"n" * 249 + b" (deleted)"),
        ("anon_inodefs_dname", b"[eventfd]", b"anon_inode:[eventfd]"),
        ("anon_inodefs_dname", b"inotify", b"anon_inode:inotify"),
        ("pidfs_dname", b"", b"anon_inode:[pidfd]"),
        ("pipefs_dname", b"", b"pipe:[4711]"),
        ("sockfs_dname", b"TCP", b"socket:[4711]"),
        ("ns_dname", b"", b"net:[4711]"),
        ("dmabuffs_dname", b"dmabuf", b"/dmabuf:buffer"),
        # One that is not known is told as well as can be.
        ("future_dname", b"", b"future_dname:[4711]"),
    ],
)
def test_names_made_on_demand(function: str, name: bytes, expected: bytes) -> None:
    t = Tree()
    k = t.kernel
    nsops = k.struct("proc_ns_operations", ("name", k.ptr), ("type", k.s32))
    ns = k.struct("ns_common", ("stashed", k.ptr), ("ops", k.ptr), ("inum", k.u32))
    private = k.new(ns, {"ops": k.new(nsops, {"name": k.alloc(b"net\0")})})
    dma_buf = k.struct("dma_buf", ("size", k.ulong), ("name", k.ptr))
    fsdata = k.new(dma_buf, {"name": k.alloc(b"buffer\0")})
    inode = k.new(t.inode, {"i_ino": 4711, "i_private": private})
    dentry = t.dynamic(function, name, inode=inode, fsdata=fsdata)
    mnt = t.mount(t.dentry(b"pipe:", 0))
    assert t.name(dentry, mnt) == expected
    # The root of such a file system, in its own mount, has a path.
    if function == "simple_dname":
        assert t.name(dentry, t.mount(dentry)) == b"/"


def test_names_made_on_demand_of_damaged_inodes() -> None:
    t = Tree()
    k = t.kernel
    k.struct("proc_ns_operations", ("name", k.ptr), ("type", k.s32))
    k.struct("ns_common", ("stashed", k.ptr), ("ops", k.ptr), ("inum", k.u32))
    mnt = t.mount(t.dentry(b"nsfs:", 0))
    for private in (0, BAD, k.alloc(64)):
        inode = k.new(t.inode, {"i_ino": 7, "i_private": private})
        with pytest.raises(FaultError):
            t.name(t.dynamic("ns_dname", b"", inode=inode), mnt)
    for inode in (0, BAD):
        with pytest.raises(FaultError):
            t.name(t.dynamic("pipefs_dname", b"", inode=inode), mnt)
    # Operations that make no name leave the path.
    no_dname = k.new(t.ops, {"d_hash": 1, "d_dname": 0})
    assert t.name(t.dentry(b"plain", t.root, op=no_dname)) == b"/plain"
    with pytest.raises(FaultError):
        t.name(t.dentry(b"plain", t.root, op=BAD))


@pytest.mark.parametrize(
    ("mode", "name", "is_socket", "kind"),
    [
        (0o100644, b"/etc/passwd", False, "reg"),
        (0o100777, b"/memfd:x (deleted)", False, "memfd"),
        (0o100444, b"net:[4026531840]", False, "ns"),
        (0o040755, b"/", False, "dir"),
        (0o020666, b"/dev/null", False, "chr"),
        (0o060660, b"/dev/vda", False, "blk"),
        (0o010600, b"pipe:[17]", False, "pipe"),
        (0o010600, b"/run/fifo", False, "fifo"),
        (0o120777, b"/bin", False, "lnk"),
        (0o140777, b"socket:[18]", True, "sock"),
        (0o140777, b"/run/x.sock", False, "sockfile"),
        (0o600, b"anon_inode:[eventfd]", False, "eventfd"),
        (0o600, b"anon_inode:inotify", False, "inotify"),
        (0, b"", False, "unknown"),
    ],
)
def test_kinds(mode: int, name: bytes, is_socket: bool, kind: str) -> None:
    assert file_kind(mode, name, is_socket) == kind


def test_a_kind_is_printable() -> None:
    # Out of a dentry that was overwritten.
    for name in (b"[\x1b[31m]", b"a\nb", b"\xff\xfe", b"", "\u202e".encode()):
        kind = file_kind(0o600, b"anon_inode:" + name, False)
        assert kind.isprintable(), kind
        assert kind


def test_access() -> None:
    # FMODE_READ 1, FMODE_WRITE 2; others do not matter.
    assert [access_mode(0, mode) for mode in (0, 1, 2, 3, 0x4000 | 1)] == ["-", "r", "w", "u", "r"]
    assert access_mode(0o10000000, 0x4000) == "p"


def test_device_numbers() -> None:
    # MINORBITS is 20.
    assert (major(0x800001), minor(0x800001)) == (8, 1)
    assert (major((259 << 20) + 1_048_575), minor((259 << 20) + 1_048_575)) == (259, 1_048_575)
