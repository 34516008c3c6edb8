# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading BTF: from the memory of a kernel and its modules, or from a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from drgn import FaultError, Object, Program, container_of

from drgn_sockets.errors import UserError
from drgn_sockets.program import is_running_kernel
from drgn_sockets.target.btf import Btf, BtfError
from drgn_sockets.target.symbols import build_id

if TYPE_CHECKING:
    from drgn_sockets.target.elf import Elf

logger = logging.getLogger("drgn.drgn_sockets")

_SYS_BTF = "/sys/kernel/btf/vmlinux"
# Debian's largest BTF is 7 MB; that of a kernel with everything built in is some 20 MB.
_MAX_BTF = 1 << 28
# Far more than a kernel has.
_MAX_MODULES = 1 << 14


class BtfFile:
    """
    A file with a kernel's BTF: a vmlinux, or a copy of ``/sys/kernel/btf/vmlinux``.

    :raises UserError: if the file has no BTF, or cannot be read
    """

    def __init__(self, path: str) -> None:
        from drgn_sockets.target.elf import MAGIC, Elf

        self.path = path
        self.elf: Elf | None = None
        try:
            with open(path, "rb") as f:
                self.elf = Elf(path) if f.read(4) == MAGIC else None
                f.seek(0)
                data = f.read(_MAX_BTF) if self.elf is None else self.elf.section(".BTF")
        except OSError as e:
            raise UserError(f"cannot read {path}: {e.strerror}") from None
        if data is None:
            raise UserError(f"{path} has no BTF: it is a vmlinux of a kernel without it")
        if data[:2] not in (b"\x9f\xeb", b"\xeb\x9f"):
            raise UserError(
                f"{path} has no BTF: --btf takes a vmlinux, or a copy of /sys/kernel/btf/vmlinux"
            )
        self.data: bytes = data

    def check_build(self, prog: Program) -> None:
        """
        Check that the file is of this kernel's build, as far as the kernel's memory tells.

        :raises UserError: if the file is of another build
        """
        theirs = self.elf.build_id() if self.elf is not None else None
        ours = build_id(prog)
        if ours is not None and theirs is not None and ours != theirs:
            raise UserError(
                f"{self.path} is of another build: its build ID is {theirs.hex()}, and the "
                f"kernel's {ours.hex()}"
            )
        try:
            differs = own_btf(prog) != self.data
        except UserError:
            # A file is given for kernels whose own BTF cannot be read.
            differs = False
        if differs:
            raise UserError(f"{self.path} is of another build: the kernel's own BTF is different")


def own_btf(prog: Program) -> bytes:
    """
    The BTF that a kernel carries.

    :raises UserError: if the kernel has no BTF, or its BTF cannot be read
    """
    if is_running_kernel(prog):
        try:
            with open(_SYS_BTF, "rb") as f:
                return f.read()
        except OSError:
            pass
    try:
        start = prog.symbol("__start_BTF").address
        size = prog.symbol("__stop_BTF").address - start
    except LookupError:
        raise UserError(
            "this kernel has no BTF (CONFIG_DEBUG_INFO_BTF), or the core lacks it: give it with "
            "--btf, or its vmlinux with -s"
        ) from None
    if not 0 < size < _MAX_BTF:
        raise UserError(
            f"the kernel's BTF cannot be used: it has {size} bytes; give its vmlinux with -s"
        )
    try:
        data: bytes = prog.read(start, size)
    except FaultError as e:
        raise UserError(
            f"the kernel's BTF cannot be read ({e}): give it with --btf, or its vmlinux with -s"
        ) from None
    return data


def module_btf(prog: Program, base: Btf) -> Iterator[Btf]:
    """
    The BTF of modules that are loaded.

    BTF that cannot be read is left out.
    """
    # btf_data of struct module is gone once the module is loaded. The list btf_modules has a copy
    # that the kernel keeps for readers of /sys/kernel/btf/MODULE. A module may bring a base of its
    # own; in the copy, references to it are resolved already (btf_parse_module()). Linux kernel
    # commit 36e68442d1af ("bpf: Load and verify kernel module BTFs") (in v5.11) added the list.
    try:
        head = prog["btf_modules"].address_of_()
        prog.type("struct btf_module")
    except LookupError:
        return
    for module in _each_module(head):
        name = "?"
        try:
            btf = module.btf.read_()
            name = btf.name.string_().decode("ascii", "replace")
            size = btf.data_size.value_()
            if btf.start_id != base.end_id or btf.start_str_off != base.string_end:
                raise BtfError("it is on another base")
            if size > _MAX_BTF:
                raise BtfError(f"it has {size} bytes")
            yield Btf(prog.read(btf.data, size), base)
        except (FaultError, BtfError) as e:
            logger.debug("BTF of module %s: %s", name, e)


def modules_with_btf(prog: Program) -> set[bytes]:
    """
    Names of the modules whose BTF the kernel has.

    A module whose BTF cannot be read is left out.
    """
    try:
        head = prog["btf_modules"].address_of_()
        prog.type("struct btf_module")
    except LookupError:
        return set()
    names = set()
    for module in _each_module(head):
        try:
            names.add(bytes(module.btf.name.string_()))
        except FaultError as e:
            logger.debug("BTF of a module: %s", e)
    return names


def _each_module(head: Object) -> Iterator[Object]:
    seen = {head.value_()}
    entry = head
    try:
        while len(seen) < _MAX_MODULES:
            entry = entry.next.read_()
            if entry.value_() in seen:
                return
            seen.add(entry.value_())
            yield container_of(entry, "struct btf_module", "list")
    except FaultError as e:
        logger.debug("list of the BTF of modules: %s", e)
