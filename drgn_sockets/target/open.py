# SPDX-License-Identifier: LGPL-2.1-or-later
"""Turning command-line options into a :class:`drgn.Program` with types, or into one error line."""

from __future__ import annotations

import argparse
import errno
import os

import drgn
from drgn import MissingDebugInfoError, Platform, Program, ProgramFlags

from drgn_sockets.errors import BAD_DATA, UserError
from drgn_sockets.messages import tell
from drgn_sockets.program import HOLES
from drgn_sockets.target.btf_source import BtfFile
from drgn_sockets.target.core_file import CoreFile
from drgn_sockets.target.open_core import open_core, too_little_left
from drgn_sockets.target.own_types import OwnTypes

_KCORE = "/proc/kcore"
#: Key in ``prog.cache`` of the path of the core: drgn does not know that of each.
CORE_PATH = "drgn_sockets.core_path"


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to open; they have the names of drgn's options."""
    group = parser.add_argument_group("what to look at")
    program = group.add_mutually_exclusive_group()
    program.add_argument("-k", "--kernel", action="store_true", help="the running kernel (default)")
    program.add_argument("-c", "--core", metavar="PATH", help="a core dump, ELF or kdump")
    program.add_argument(
        "--qemu",
        metavar="ADDRESS",
        help="a QEMU guest, by its QMP socket: a path, or host:port",
    )
    symbols = parser.add_argument_group("debugging symbols")
    symbols.add_argument(
        "-s",
        "--symbols",
        metavar="PATH",
        action="append",
        default=[],
        help="a vmlinux or module with debugging symbols, or a vmlinux with BTF; may be given "
        "more than once",
    )
    symbols.add_argument(
        "--debug-directory",
        metavar="PATH",
        action="append",
        default=[],
        help="search for debugging symbols in this directory too",
    )
    symbols.add_argument(
        "--debuginfod",
        action="store_true",
        help="download them from $DEBUGINFOD_URLS if they are not on this machine",
    )
    symbols.add_argument(
        "--types",
        choices=("auto", "dwarf", "btf"),
        default="auto",
        help="where types come from: debugging symbols (DWARF), or the kernel's own BTF in its "
        "memory; auto takes the first that is there (default)",
    )
    symbols.add_argument(
        "--btf",
        metavar="PATH",
        help="take types from this file's BTF: a vmlinux, or a copy of /sys/kernel/btf/vmlinux, "
        "for a core that was written without it",
    )
    symbols.add_argument(
        "--system-map",
        metavar="PATH",
        help="with BTF, for a core of a kernel before 6.0: its System.map, or a copy that root "
        "made of its /proc/kallsyms (or $DRGN_SOCKETS_SYSTEM_MAP)",
    )
    advanced = parser.add_argument_group("advanced")
    advanced.add_argument(
        "--architecture",
        metavar="ARCH",
        choices=[a.name for a in drgn.Architecture] + [a.name.lower() for a in drgn.Architecture],
        help="architecture of a core that does not tell, such as X86_64",
    )
    advanced.add_argument(
        "--vmcoreinfo",
        metavar="PATH",
        help="a file with VMCOREINFO, for a core that has none, in its memory either",
    )


def open_target(args: argparse.Namespace) -> Program:
    """
    Open what the options of :func:`add_target_arguments` say, and load its types.

    :raises UserError: if it cannot be opened, or has no types
    """
    prog, file = open_program(args)
    if file is not None:
        _load_core_symbols(prog, args, file)
    else:
        _load_symbols(prog, args)
    return prog


def open_program(args: argparse.Namespace) -> tuple[Program, CoreFile | None]:
    """
    Open what the options say, without types and symbols.

    :return: The program, and the headers of its core if it is one.
    :raises UserError: if it cannot be opened
    """
    architecture = (
        getattr(drgn.Architecture, args.architecture.upper()) if args.architecture else None
    )
    vmcoreinfo = _read_vmcoreinfo(args.vmcoreinfo)
    platform = Platform(architecture) if architecture is not None else None
    if args.core is not None:
        try:
            prog, file = open_core(args.core, platform, vmcoreinfo)
        except OSError as e:
            raise UserError(_cannot_open(args, e)) from None
        prog.cache[CORE_PATH] = args.core
        if file.has_holes:
            prog.cache[HOLES] = True
        return prog, file
    try:
        prog = _set_program(args, platform, vmcoreinfo)
    except ValueError as e:
        raise UserError(f"cannot open {args.qemu or _KCORE}: {e}") from None
    if args.qemu is not None and not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        if vmcoreinfo is None:
            # QEMU answers one program at a time.
            del prog
            prog, vmcoreinfo = _open_qemu_without_vmcoreinfo(args, platform)
        prog.set_linux_kernel_custom(vmcoreinfo, True)
    return prog, None


def _open_qemu_without_vmcoreinfo(
    args: argparse.Namespace, platform: Platform | None
) -> tuple[Program, bytes]:
    """Open a guest, and find VMCOREINFO in its memory."""
    from drgn_sockets.target.qmp import ram_ranges
    from drgn_sockets.target.vmcoreinfo import find_in_guest

    try:
        ranges = ram_ranges(args.qemu)
    except OSError as e:
        raise UserError(_cannot_open(args, e)) from None
    guest = _set_program(args, platform, None)
    found = find_in_guest(guest, ranges)
    if found is None:
        raise UserError(
            f"the guest at {args.qemu} has no VMCOREINFO, neither from QEMU's vmcoreinfo device "
            "nor in its memory: it does not run Linux, or a kernel without CONFIG_VMCORE_INFO; if "
            "you have the VMCOREINFO, give it with --vmcoreinfo"
        )
    tell(f"QEMU has no VMCOREINFO of the guest; it was found in memory, at {found.address:#x}")
    return guest, found.text


def _load_core_symbols(prog: Program, args: argparse.Namespace, file: CoreFile) -> None:
    try:
        _load_symbols(prog, args)
    except (UserError, drgn.FaultError, LookupError):
        # With options, it may be these that are wrong.
        if file.missing is None or args.symbols or args.btf or args.system_map:
            raise
        raise too_little_left(file) from None
    if file.missing is not None:
        tell(f"{file.cut_short()}; what is missing will be told where it is read")
        args.incomplete = True


def _read_vmcoreinfo(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None


def _set_program(
    args: argparse.Namespace, platform: Platform | None, vmcoreinfo: bytes | None
) -> Program:
    prog = Program(platform=platform, vmcoreinfo=vmcoreinfo)
    if args.qemu is not None and not hasattr(prog, "set_qemu_qmp"):
        raise UserError(f"--qemu needs drgn 0.2 or newer; this is drgn {drgn.__version__}")
    try:
        if args.qemu is not None:
            prog.set_qemu_qmp(args.qemu)
        else:
            prog.set_kernel()
    except OSError as e:
        raise UserError(_cannot_open(args, e)) from None
    except drgn.FaultError as e:
        raise UserError(f"{args.qemu or _KCORE} is damaged: {e}") from None
    except Exception as e:
        # drgn raises a plain Exception for libkdumpfile's errors.
        if type(e) not in (Exception, BAD_DATA):
            raise
        raise UserError(f"{args.qemu or _KCORE} is damaged: {e}") from None
    return prog


def _cannot_open(args: argparse.Namespace, e: OSError) -> str:
    why = e.strerror or str(e)
    if args.core is not None:
        if e.errno == errno.ENOENT:
            return f"no such core: {args.core}"
        return f"cannot open core {args.core}: {why}"
    if args.qemu is not None:
        return (
            f"cannot reach QEMU at {args.qemu}: {why}; start the guest with "
            f"-qmp unix:{args.qemu},server=on,wait=off"
        )
    if e.errno in (errno.EACCES, errno.EPERM):
        return (
            f"no permission to read {_KCORE}: run as root (sudo), or give a core with -c"
            if os.geteuid()
            else f"reading {_KCORE} is not permitted (kernel lockdown?); give a core with -c"
        )
    if e.errno == errno.ENOENT:
        return f"this kernel has no {_KCORE} (CONFIG_PROC_KCORE); give a core with -c"
    return f"cannot open {_KCORE}: {why}"


def _load_symbols(prog: Program, args: argparse.Namespace) -> None:
    if args.btf is not None and (args.symbols or args.types == "dwarf"):
        other = "-s" if args.symbols else "--types dwarf"
        raise UserError(f"--btf and {other} contradict each other: leave one of them out")
    for path in args.symbols:
        from drgn_sockets.target.elf import MAGIC

        # drgn only warns of a file that it cannot use.
        try:
            with open(path, "rb") as f:
                magic = f.read(4)
        except OSError as e:
            raise UserError(f"cannot read symbols {path}: {e.strerror}") from None
        if magic != MAGIC:
            raise UserError(f"{path} is not an ELF file; -s takes a vmlinux or a module")
    if args.debug_directory:
        options = prog.debug_info_options
        options.directories = tuple(args.debug_directory) + tuple(options.directories)
    if not args.debuginfod:
        finders = [f for f in prog.enabled_debug_info_finders() if f != "debuginfod"]
        prog.set_enabled_debug_info_finders(finders)
    if args.types != "btf" and args.btf is None and _load_dwarf(prog, args):
        used = f"types and symbols from DWARF: {prog.main_module().debug_file_path}"
        if args.system_map is not None:
            used += f"; {args.system_map} is not needed"
    elif args.types == "dwarf":
        raise UserError(_no_symbols(prog, args))
    else:
        used = OwnTypes.of(prog).load(args.system_map, _btf_file(prog, args))
    tell(used)


def _btf_file(prog: Program, args: argparse.Namespace) -> BtfFile | None:
    """The file with BTF that the options name; ``None`` if they name no file."""
    if args.btf is not None:
        return BtfFile(args.btf)
    for path in args.symbols:
        try:
            file = BtfFile(path)
            file.check_build(prog)
        except UserError:
            continue
        return file
    if args.symbols:
        raise UserError(_no_symbols(prog, args))
    return None


def _load_dwarf(prog: Program, args: argparse.Namespace) -> bool:
    """Load debugging symbols, given or on this machine; ``False`` if there are none."""
    with OwnTypes.of(prog).aside():
        return _try_dwarf(prog, args)


def _try_dwarf(prog: Program, args: argparse.Namespace) -> bool:
    try:
        prog.load_debug_info(args.symbols, main=True)
    except MissingDebugInfoError:
        return False
    except (OSError, ValueError, drgn.FaultError) as e:
        raise UserError(f"cannot load symbols: {e}") from None
    try:
        # These may belong to modules, whose types are in files of their own.
        prog.type("struct unix_sock")
        prog.type("struct ipv6_pinfo")
    except LookupError:
        try:
            prog.load_debug_info(default=True)
        except MissingDebugInfoError:
            pass
    try:
        prog.type("struct task_struct")
    except LookupError:
        return False
    return True


def _no_symbols(prog: Program, args: argparse.Namespace) -> str:
    try:
        release = prog["UTS_RELEASE"].string_().decode()
    except (LookupError, drgn.FaultError):
        release = "this kernel"
    try:
        build_id = prog.main_module().build_id
    except LookupError:
        build_id = None
    ident = f"build ID {build_id.hex()}" if build_id else "no build ID"
    if args.symbols:
        return (
            f"{', '.join(args.symbols)}: not of the kernel looked at ({release}, {ident}); "
            "give the vmlinux of exactly that build with -s"
        )
    return (
        f"no debugging symbols for {release} ({ident}): install the kernel's -dbg or "
        "debuginfo package, give its vmlinux with -s, or download it with --debuginfod"
    )
