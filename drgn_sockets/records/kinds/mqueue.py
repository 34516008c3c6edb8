# SPDX-License-Identifier: LGPL-2.1-or-later
"""POSIX message queues: ipc/mqueue.c."""

from __future__ import annotations

from typing import NamedTuple

from drgn import Program, offsetof

from drgn_sockets.kernel.file import File
from drgn_sockets.kernel.pid import pid_nr
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, FileEnd, Kind


class MqueueInode(Struct):
    """``struct mqueue_inode_info``."""

    C_TYPE = "struct mqueue_inode_info"

    messages = Int("attr.mq_curmsgs", help="messages in the queue")
    max_messages = Int("attr.mq_maxmsg", help="how many there may be")
    max_size = Int("attr.mq_msgsize", help="how large one may be, bytes")
    bytes = Int("qsize", help="bytes in the queue")
    notify_owner = Int("notify_owner", help="struct pid * of who wants to be told")


class MqueueRecord(NamedTuple):
    """A POSIX message queue, and the process that it notifies."""

    queue: MqueueInode
    #: The process that asked to be notified of messages (mq_notify(3)), or ``None``.
    notify_pid: int | None


class Mqueue(Kind):
    """A POSIX message queue."""

    name = "mqueue"
    fops = ("mqueue_file_operations",)
    fields = (
        Field("messages", "messages in a queue", lambda it: it.queue.messages),
        Field("bytes", "bytes in a message queue", lambda it: it.queue.bytes),
        Field("max_messages", "messages that there may be", lambda it: it.queue.max_messages),
        Field("max_size", "size that a message may have, bytes", lambda it: it.queue.max_size),
        Field("notify_pid", "process that is told of messages", lambda it: it.notify_pid),
    )

    def read(self, file: FileRecord) -> MqueueRecord:
        prog = file.prog
        offset = offsetof(prog.type(MqueueInode.C_TYPE), "vfs_inode")
        queue = MqueueInode.layout(prog).read(file.file.inode - offset)
        return MqueueRecord(queue, pid_nr(prog, queue.notify_owner) or None)

    def end(self, prog: Program, file: File) -> FileEnd:
        return FileEnd(file.inode)
