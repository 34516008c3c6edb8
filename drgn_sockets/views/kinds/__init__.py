# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kinds of files: one module each, with its structures, what lsfd has of it, and its lines in
``/proc/PID/fdinfo``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from drgn import Program

from drgn_sockets.kernel.dcache import symbol_name
from drgn_sockets.kernel.memory import UNREADABLE
from drgn_sockets.kernel.module import module_symbol_name
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.views.kinds.base import Field, Kind
from drgn_sockets.views.kinds.bpf_btf import BpfBtf
from drgn_sockets.views.kinds.bpf_iter import BpfIter
from drgn_sockets.views.kinds.bpf_link import BpfLink
from drgn_sockets.views.kinds.bpf_map import BpfMap
from drgn_sockets.views.kinds.bpf_prog import BpfProgram
from drgn_sockets.views.kinds.bpf_token import BpfToken
from drgn_sockets.views.kinds.dma_buf import DmaBufKind
from drgn_sockets.views.kinds.eventfd import Eventfd
from drgn_sockets.views.kinds.eventpoll import Eventpoll
from drgn_sockets.views.kinds.fanotify import Fanotify
from drgn_sockets.views.kinds.fscontext import FsContextKind
from drgn_sockets.views.kinds.fuse_dev import FuseDevKind
from drgn_sockets.views.kinds.inotify import Inotify
from drgn_sockets.views.kinds.io_uring import IoUring
from drgn_sockets.views.kinds.kvm import KvmVcpu, KvmVm
from drgn_sockets.views.kinds.landlock import Landlock
from drgn_sockets.views.kinds.memfd import Memfd
from drgn_sockets.views.kinds.mqueue import Mqueue
from drgn_sockets.views.kinds.ns import Ns
from drgn_sockets.views.kinds.perf_event import PerfEventKind
from drgn_sockets.views.kinds.pidfd import Pidfd
from drgn_sockets.views.kinds.pipe import Pipe
from drgn_sockets.views.kinds.seccomp import Seccomp
from drgn_sockets.views.kinds.secretmem import Secretmem
from drgn_sockets.views.kinds.signalfd import Signalfd
from drgn_sockets.views.kinds.sock import Sock
from drgn_sockets.views.kinds.timerfd import Timerfd
from drgn_sockets.views.kinds.tty import Ptmx, Tty
from drgn_sockets.views.kinds.tun import Tun
from drgn_sockets.views.kinds.userfaultfd import Userfaultfd
from drgn_sockets.views.kinds.vfio import Vfio

__all__ = ["KINDS", "Field", "Kind", "Known", "kind_of", "known_of"]

#: All that are told apart by more than a name.
KINDS: tuple[Kind, ...] = (
    Eventfd(),
    BpfProgram(),
    BpfMap(),
    BpfLink(),
    BpfIter(),
    BpfBtf(),
    BpfToken(),
    IoUring(),
    PerfEventKind(),
    Pipe(),
    Ns(),
    Memfd(),
    Secretmem(),
    Mqueue(),
    DmaBufKind(),
    FuseDevKind(),
    FsContextKind(),
    Landlock(),
    Seccomp(),
    KvmVm(),
    KvmVcpu(),
    Vfio(),
    Eventpoll(),
    Fanotify(),
    Inotify(),
    Pidfd(),
    Ptmx(),
    Signalfd(),
    Sock(),
    Timerfd(),
    Tty(),
    Tun(),
    Userfaultfd(),
)

_MODULES = " (types of modules: in BTF since Linux 5.11; or give debugging symbols)"

_BY_FOPS = {name: kind for kind in KINDS for name in kind.fops}


class Known(NamedTuple):
    """What is known of a file of some kind."""

    kind: Kind
    #: What its :meth:`Kind.read` gave, ``None`` if that cannot be read.
    it: Any
    #: What cannot be read, or ``None``.
    error: str | None = None
    #: Whether that is so since types or symbols are not known.
    unknown: bool = False


def kind_of(prog: Program, op: int) -> Kind | None:
    """
    The kind of the files that have some file operations, ``None`` for others.

    :param op: ``const struct file_operations *``
    """
    return _BY_FOPS.get(symbol_name(prog, op) or module_symbol_name(prog, op))


def known_of(file: FileRecord) -> Known | None:
    """What is known of a file beyond what all files have; remembered with the record."""
    if file.memo is None:
        file.memo = _known_of(file) or ()
    return file.memo or None


def _known_of(file: FileRecord) -> Known | None:
    kind = kind_of(file.prog, file.op)
    if kind is None or not kind.is_one(file):
        return None
    try:
        return Known(kind, kind.read(file))
    except LookupError as e:
        hint = _MODULES if "could not find 'struct " in str(e) else ""
        return Known(kind, None, f"{kind.name}: {e}{hint}", unknown=True)
    except UNREADABLE as e:
        return Known(kind, None, f"{kind.name}: {e}")
