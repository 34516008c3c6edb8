# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opening a core dump as its maker wrote it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import drgn
from drgn import FaultError, Platform, Program

from drgn_sockets.errors import BAD_DATA, UserError
from drgn_sockets.messages import tell
from drgn_sockets.target.core_file import CoreFile, Reader, architecture_of

_ALL = (1 << 64) - 1
# libkdumpfile reads no physical memory without knowing these.
_ANY_VMCOREINFO = b"OSRELEASE=6.0.0\nPAGESIZE=%d\nSYMBOL(swapper_pg_dir)=ffffffff81000000\n"


def open_core(
    path: str, platform: Platform | None, vmcoreinfo: bytes | None
) -> tuple[Program, CoreFile]:
    """
    Open a core dump of a Linux kernel.

    :param platform: What the user says of the machine.
    :param vmcoreinfo: What the user says of the kernel.
    :raises UserError: if it cannot be opened
    :raises OSError: if the file cannot be read
    """
    file = CoreFile(path)
    if platform is None:
        platform = file.platform()
    if vmcoreinfo is None and file.vmcoreinfo is None:
        vmcoreinfo = _find_vmcoreinfo(file, platform)
    if file.is_kdump:
        platform = _platform(platform, vmcoreinfo or b"")
        if platform is None:
            raise UserError(f"{path} does not say its architecture: give that with --architecture")
    try:
        return _opened(file, platform, vmcoreinfo), file
    except UserError:
        if file.missing is None:
            raise
        raise too_little_left(file) from None


def too_little_left(file: CoreFile) -> UserError:
    """The error for a file cut short that does not open."""
    if file.is_flattened and file.pages is None:
        # libkdumpfile reads flattened files only whole; makedumpfile puts them together as far as
        # they go.
        return UserError(
            f"{file.cut_short()}; makedumpfile -R NEW < {file.path} puts together what is left, "
            "for -c NEW"
        )
    return UserError(
        f"{file.cut_short()}; what is left does not suffice: copy the file again, or write the "
        "dump where there is more space"
    )


def _opened(file: CoreFile, platform: Platform | None, vmcoreinfo: bytes | None) -> Program:
    try:
        return _program(file, platform, vmcoreinfo)
    except (ValueError, OverflowError, FaultError) as e:
        raise _damaged(file, vmcoreinfo, e) from None
    except Exception as e:
        if type(e) not in (Exception, BAD_DATA):
            raise
        # drgn raises a plain Exception for libkdumpfile's errors.
        raise _damaged(file, vmcoreinfo, e) from None


def _damaged(file: CoreFile, vmcoreinfo: bytes | None, e: Exception) -> UserError:
    if "VMCOREINFO" not in str(e):
        return UserError(f"{file.path} is damaged: {e}")
    if vmcoreinfo is not None:
        return UserError(f"the VMCOREINFO given for {file.path} is damaged, or is none: {e}")
    return UserError(
        f"the VMCOREINFO of {file.path} is damaged: {e}; give the kernel's with --vmcoreinfo"
    )


def _program(file: CoreFile, platform: Platform | None, vmcoreinfo: bytes | None) -> Program:
    # set_linux_kernel_custom() came with drgn 0.1.
    if file.pages is not None and hasattr(Program, "set_linux_kernel_custom"):
        prog = Program(platform=platform)
        prog.add_memory_segment(0, _ALL, file.pages.read, physical=True)
        prog.set_linux_kernel_custom(vmcoreinfo or file.vmcoreinfo, False)
        return prog
    prog = Program(platform=platform, vmcoreinfo=vmcoreinfo)
    with _without_advice():
        prog.set_core_dump(file.path)
    return prog


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keep drgn from its advice to put flattened dumps together: they open as they are."""

    def is_other(record: logging.LogRecord) -> bool:
        return "flattened format" not in record.getMessage()

    logger = logging.getLogger("drgn")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _find_vmcoreinfo(file: CoreFile, platform: Platform | None) -> bytes:
    from drgn_sockets.target import vmcoreinfo

    def opened(text: bytes) -> Program:
        return _program(file, _platform(platform, text), text)

    found = vmcoreinfo.find(file.chunks(_physical_reader(file, platform)), opened)
    if found is None:
        if file.missing is not None:
            raise too_little_left(file)
        raise UserError(
            f"{file.path} has no VMCOREINFO, neither as a note nor in the memory it has: it is of "
            "another system than Linux, or of a kernel without CONFIG_VMCORE_INFO; if you have the "
            "VMCOREINFO, give it with --vmcoreinfo"
        )
    tell(f"{file.path} has no note with VMCOREINFO; it was found in memory, at {found.address:#x}")
    return found.text


def _platform(platform: Platform | None, text: bytes) -> Platform | None:
    architecture = architecture_of(text)
    return Platform(architecture) if platform is None and architecture is not None else platform


def _physical_reader(file: CoreFile, platform: Platform | None) -> Reader | None:
    """What reads pages that Python cannot decompress."""
    if not file.needs_libkdumpfile:
        return None
    if platform is None:
        platform = Platform(drgn.Architecture.X86_64)
    prog = _program(file, platform, _ANY_VMCOREINFO % file.page_size)

    def read(address: int, size: int) -> bytes:
        data: bytes = prog.read(address, size, physical=True)
        return data

    return read
