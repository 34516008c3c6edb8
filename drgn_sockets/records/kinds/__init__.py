# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kinds of files. Each has a module with its structures, the values that lsfd shows, and its lines
in ``/proc/PID/fdinfo``.

Importing all modules takes 90 ms. A module whose file operations are listed here is imported with
the first such file; all other modules are imported with the first file of an unknown kind.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, NamedTuple

from drgn import FaultError, Program

from drgn_sockets.kernel.lost import Lost, lost_by, lost_in
from drgn_sockets.kernel.memory import UNREADABLE
from drgn_sockets.kernel.module import TYPES_OF_MODULES, module_symbol_name
from drgn_sockets.kernel.symbols import symbol_name
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind

__all__ = [
    "Field",
    "Kind",
    "Known",
    "all_kinds",
    "kind_of",
    "kind_with_ends",
    "known_of",
    "told_apart",
]


# The file operations of the kinds in each module. A module in this folder is found without being
# listed here; listing it saves importing it for files of unknown kinds.
_MODULES: dict[str, list[str]] = {
    "base": [],
    "notify": [],
    "block": ["def_blk_fops"],
    "bpf_btf": ["btf_fops"],
    "bpf_iter": ["bpf_iter_fops"],
    "bpf_link": ["bpf_link_fops", "bpf_link_fops_poll"],
    "bpf_map": ["bpf_map_fops"],
    "bpf_prog": ["bpf_prog_fops"],
    "bpf_token": ["bpf_token_fops"],
    "dma_buf": ["dma_buf_fops"],
    "eventfd": ["eventfd_fops"],
    "eventpoll": ["eventpoll_fops"],
    "fanotify": ["fanotify_fops"],
    "fscontext": ["fscontext_fops"],
    "fuse_dev": ["fuse_dev_operations"],
    "inotify": ["inotify_fops"],
    "io_uring": ["io_uring_fops"],
    "kvm": ["kvm_vm_fops", "kvm_vcpu_fops"],
    "landlock": ["ruleset_fops"],
    "memfd": ["shmem_file_operations", "hugetlbfs_file_operations"],
    "mqueue": ["mqueue_file_operations"],
    "ns": ["ns_file_operations"],
    "perf_event": ["perf_fops"],
    "pidfd": ["pidfd_fops", "pidfs_file_operations"],
    "pipe": ["pipefifo_fops", "pipeanon_fops"],
    "seccomp": ["seccomp_notify_ops"],
    "secretmem": ["secretmem_fops"],
    "signalfd": ["signalfd_fops"],
    "sock": ["socket_file_ops"],
    "timerfd": ["timerfd_fops"],
    "tty": ["tty_fops", "console_fops", "ptmx_fops"],
    "tun": ["tun_fops"],
    "userfaultfd": ["userfaultfd_fops"],
    "vfio": ["vfio_device_fops"],
}
# The modules whose kinds define Kind.end().
_WITH_ENDS = ("eventfd", "mqueue", "pipe", "tty")
_BY_FOPS = {name: module for module, names in _MODULES.items() for name in names}


@lru_cache(None)
def _kinds_in(name: str) -> list[Kind]:
    module = import_module(f"{__name__}.{name}")
    return [
        value()
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Kind)
        and value.fops
        and value.__module__ == module.__name__
    ]


@lru_cache(None)
def _modules() -> list[str]:
    # pkgutil would import more than all these modules together.
    names = os.listdir(__path__[0])  # noqa: PTH208
    return sorted(name[:-3] for name in names if name.endswith(".py") and name != "__init__.py")


def all_kinds() -> list[Kind]:
    """All kinds that are recognized by their file operations."""
    return [kind for module in _modules() for kind in _kinds_in(module)]


class Known(NamedTuple):
    """What is known of a file of some kind."""

    kind: Kind
    #: The result of :meth:`Kind.read`, ``None`` if it failed.
    it: Any
    #: What cannot be read, or ``None``.
    error: str | None = None
    #: Whether the reading failed because types or symbols are not known.
    unknown: bool = False


def kind_of(prog: Program, op: int) -> Kind | None:
    """
    The kind of the files with these file operations, ``None`` if there is no such kind.

    :param op: ``const struct file_operations *``
    """
    return _kind_with(_fops(prog, op))


def kind_with_ends(prog: Program, op: int) -> Kind | None:
    """
    :func:`kind_of`, but ``None`` for most kinds whose files are not ends of anything.

    It does not import the modules of these kinds, and is quick for very many files.
    """
    fops = _fops(prog, op)
    module = _BY_FOPS.get(fops)
    return _kind_with(fops) if module is None or module in _WITH_ENDS else None


def _fops(prog: Program, op: int) -> str:
    return symbol_name(prog, op) or module_symbol_name(prog, op) or ""


@lru_cache(1024)
def _kind_with(fops: str) -> Kind | None:
    modules = [_BY_FOPS[fops]] if fops in _BY_FOPS else set(_modules()).difference(_MODULES)
    kinds = (kind for module in modules for kind in _kinds_in(module) if fops in kind.fops)
    return next(kinds, None)


def told_apart() -> dict[str, Callable[[FileRecord], bool]]:
    """For the name of each kind, a function that tells whether a file is of this kind."""
    return {kind.name: partial(_is, kind) for kind in all_kinds()}


def _is(kind: Kind, file: FileRecord) -> bool:
    return kind_of(file.prog, file.op) is kind and kind.is_one(file)


def known_of(file: FileRecord) -> Known | None:
    """
    Read what the kind of a file tells beyond the columns of all files; the record keeps it.

    :raises FaultError: if memory that decides on the kind cannot be read
    """
    if file.memo is None:
        file.memo = _known_of(file) or ()
    return file.memo or None


def _known_of(file: FileRecord) -> Known | None:
    kind = kind_of(file.prog, file.op)
    if kind is None or not kind.is_one(file):
        return None
    try:
        it = kind.read(file)
        file.lost = list(lost_in(it))
        return Known(kind, it)
    except (IndexError, KeyError) as e:
        # Not of a type or a symbol: what memory says does not fit together.
        file.lost = [Lost(kind.name, file.private_data, f"{type(e).__name__}: {e}")]
        return Known(kind, None, f"{kind.name}: {file.lost[0]}")
    except LookupError as e:
        hint = f" {TYPES_OF_MODULES}" if "could not find 'struct " in str(e) else ""
        return Known(kind, None, f"{kind.name}: {e}{hint}", unknown=True)
    except UNREADABLE as e:
        lost = lost_by(e, kind.name) if isinstance(e, FaultError) else Lost(kind.name, 0, str(e))
        file.lost = [lost]
        return Known(kind, None, f"{kind.name}: {lost}")
