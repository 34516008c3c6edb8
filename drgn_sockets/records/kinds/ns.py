# SPDX-License-Identifier: LGPL-2.1-or-later
"""Namespaces: fs/nsfs.c."""

from __future__ import annotations

from operator import attrgetter
from typing import NamedTuple

from drgn import Program, offsetof

from drgn_sockets.kernel.dcache import DnameInode
from drgn_sockets.kernel.memory import read_pointers, read_string
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind

#: The structure of each type of namespace, and its member that points to the owning user namespace.
_TYPES = {
    "net": ("struct net", "user_ns"),
    "mnt": ("struct mnt_namespace", "user_ns"),
    "uts": ("struct uts_namespace", "user_ns"),
    "ipc": ("struct ipc_namespace", "user_ns"),
    "pid": ("struct pid_namespace", "user_ns"),
    "cgroup": ("struct cgroup_namespace", "user_ns"),
    "time": ("struct time_namespace", "user_ns"),
    "user": ("struct user_namespace", "parent"),
}


class NsCommon(Struct):
    """``struct ns_common``."""

    C_TYPE = "struct ns_common"

    ops = Int("ops", help="const struct proc_ns_operations *")
    inum = Int("inum", help="inode number")


class _Ops(Struct):
    C_TYPE = "struct proc_ns_operations"

    name = Int("name")


class UserNs(Struct):
    """``struct user_namespace``."""

    C_TYPE = "struct user_namespace"

    level = Int("level", help="how deep it is; 0 for the initial one")
    owner = Int("owner.val", help="UID of who made it, in the initial user namespace")
    inum = Int("ns.inum", help="inode number")


class NsRecord(NamedTuple):
    """A namespace and its owner."""

    type: str
    inum: int
    #: Inode number of the user namespace that owns it (of a user namespace, of its parent),
    #: ``None`` if there is none.
    owner: int | None
    #: UID of the creator of a user namespace; ``None`` for other types.
    owner_uid: int | None

    @property
    def name(self) -> str:
        """The text of the link ``/proc/PID/ns/…``, such as ``net:[4026531840]``."""
        return f"{self.type}:[{self.inum}]"


def _owner(prog: Program, type_: str, ns: int) -> int:
    """``struct user_namespace *`` of the owner, 0 if there is none."""
    c_type, member = _TYPES[type_]
    container = prog.type(c_type)
    address = ns - offsetof(container, "ns") + offsetof(container, member)
    return read_pointers(prog, address, 1)[0]


class Ns(Kind):
    """A namespace."""

    name = "ns"
    fops = ("ns_file_operations",)
    fields = (
        Field("name", "name of a namespace: type:[inode]", attrgetter("name"), False),
        Field("type", "type of a namespace", attrgetter("type")),
        Field("owner", "inode of the user namespace that it belongs to", attrgetter("owner")),
        Field("owner_uid", "UID of who made a user namespace", attrgetter("owner_uid")),
    )

    def read(self, file: FileRecord) -> NsRecord:
        prog = file.prog
        private = DnameInode.layout(prog).read(file.file.inode).private
        ns = NsCommon.layout(prog).read(private)
        name = read_string(prog, _Ops.layout(prog).read(ns.ops).name, 64) or b""
        type_ = name.decode("ascii", "replace")
        if type_ not in _TYPES:
            return NsRecord(type_ or "?", ns.inum, None, None)
        users = UserNs.layout(prog)
        owner = _owner(prog, type_, ns.address)
        uid = None
        if type_ == "user":
            uid = users.read(ns.address - offsetof(prog.type("struct user_namespace"), "ns")).owner
        return NsRecord(type_, ns.inum, users.read(owner).inum if owner else None, uid)
