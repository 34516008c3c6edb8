# SPDX-License-Identifier: LGPL-2.1-or-later
"""``core-info``: what a core is."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from drgn import FaultError, Program

from drgn_sockets.commands.base import OK, TOLD, Command
from drgn_sockets.errors import BAD_DATA, UserError
from drgn_sockets.kernel import machine
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.memory import distilled_by
from drgn_sockets.kernel.module import for_each_module
from drgn_sockets.kernel.net import for_each_net
from drgn_sockets.kernel.task import Tasks
from drgn_sockets.kernel.timekeeping import CLOCK_BOOTTIME, CLOCK_REALTIME, ktime_get
from drgn_sockets.messages import printable, tell
from drgn_sockets.program import is_live, is_running_kernel
from drgn_sockets.records.columns import Column
from drgn_sockets.records.losses import Losses, in_words
from drgn_sockets.target.btf_source import modules_with_btf
from drgn_sockets.target.file_facts import FileFacts, file_facts
from drgn_sockets.target.open import CORE_PATH, open_program
from drgn_sockets.target.own_types import OwnTypes
from drgn_sockets.target.symbols import build_id, os_release, vmcoreinfo
from drgn_sockets.text import plain

_NSEC_PER_SEC = 1_000_000_000
# Modules without types that are named.
_NAMED = 5
_ERRORS = (FaultError, LookupError, AttributeError, ValueError, OverflowError, OSError)


class UnknownError(Exception):
    """A fact is not known, and the text says why."""


class Source(NamedTuple):
    """What facts are read from."""

    #: Path of the core, or what it is instead: the running kernel, a guest.
    path: bytes
    #: ``None`` if there is no file, or its format is not known.
    file: FileFacts | None
    #: ``None`` if it could not be opened.
    prog: Program | None
    #: Why there are no types and symbols; empty if there are.
    why: str

    def kernel(self) -> Program:
        """
        The program, for facts that need types.

        :raises UnknownError: if there are none
        """
        if self.why:
            raise UnknownError("there are no types and symbols")
        return self.opened()

    def opened(self) -> Program:
        """
        The program, for facts that are in VMCOREINFO.

        :raises UnknownError: if it could not be opened
        """
        if self.prog is None:
            raise UnknownError(self.why)
        return self.prog


def _of_file(get: Callable[[FileFacts], Any]) -> Callable[[Source], Any]:
    return lambda source: get(source.file) if source.file is not None else None


def _format(source: Source) -> str:
    prog = source.prog
    if prog is not None and is_running_kernel(prog):
        return "the running kernel"
    if prog is not None and is_live(prog):
        return "a running guest"
    if source.file is None:
        raise UnknownError("the file cannot be read as ELF or kdump")
    by = distilled_by(prog) if prog is not None else None
    return source.file.format + (f", distilled by drgn-sockets {by}" if by else "")


def _missing(source: Source) -> str | None:
    file = source.file
    if file is None:
        return None
    if source.prog is not None and distilled_by(source.prog):
        return "what the commands do not read"
    found = [file.damage] if file.damage else []
    if file.memory is not None and file.in_file is not None and file.memory > file.in_file:
        left_out, percent = file.memory - file.in_file, 100 * file.in_file / file.memory
        found.append(f"{left_out} bytes of {file.memory} ({percent:.1f} % are in the file)")
    return "; ".join(found) or "nothing"


def _release(source: Source) -> bytes:
    return os_release(source.opened()).encode("ascii", "replace")


def _build_id(source: Source) -> str | None:
    found = build_id(source.opened())
    return found.hex() if found else None


def _architecture(source: Source) -> str:
    prog = source.opened()
    platform = prog.platform
    if platform is None:
        raise UnknownError("the file does not tell")
    page = re.search(r"^PAGESIZE=([0-9]+)$", vmcoreinfo(prog), re.MULTILINE)
    name: str = platform.arch.name.lower()
    return f"{name}, pages of {page[1]} bytes" if page else name


def _machine(source: Source) -> bytes:
    try:
        return machine.utsname(source.kernel(), "machine")
    except (UnknownError, *_ERRORS):
        if source.file is not None and source.file.machine:
            return source.file.machine.encode()
        raise


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _time(source: Source) -> str:
    told = re.search(r"^CRASHTIME=([0-9]{1,12})$", vmcoreinfo(source.opened()), re.MULTILINE)
    if told:
        return _utc(int(told[1]))
    return _utc(ktime_get(source.kernel(), CLOCK_REALTIME) // _NSEC_PER_SEC)


def _uptime(source: Source) -> int:
    return ktime_get(source.kernel(), CLOCK_BOOTTIME) // _NSEC_PER_SEC


def _panic(source: Source) -> str | bytes:
    prog = source.kernel()
    if is_live(prog):
        return "none: it is running"
    try:
        cpu = machine.panic_cpu(prog)
    except LookupError:
        cpu = -1
    if cpu is None:
        return "none: a snapshot of a running kernel"
    message = machine.panic_message(prog)
    if message is None:
        if cpu < 0:
            return "none is in the log"
        raise UnknownError("the log has no message of a panic")
    return message


def _crashed(source: Source) -> bytes | None:
    prog = source.kernel()
    if is_live(prog):
        return None
    try:
        if machine.panic_cpu(prog) is None:
            return None
    except LookupError:
        pass
    task = machine.panic_task(prog)
    if not task:
        return None
    cpu = machine.panic_cpu(prog)
    return b"%s pid=%d cpu=%d" % (task.comm.string_(), task.pid.value_(), cpu or 0)


def _processors(source: Source) -> str:
    online, there = machine.processors(source.kernel())
    return f"{online} online of {there}"


def _tasks(source: Source) -> str:
    tasks, lost = _walk(source, lambda prog, lose: Tasks(prog, lose).by_tid.values())
    processes = {task.tgid for task in tasks}
    return f"{len(processes)} processes, {len(tasks)} threads{lost}"


def _namespaces(source: Source) -> str:
    nets, lost = _walk(source, lambda prog, lose: for_each_net(prog))
    return f"{len(nets)}{lost}"


def _modules(source: Source) -> str:
    modules, lost = _walk(source, lambda prog, lose: for_each_module(prog))
    text = f"{len(modules)}{lost}"
    if not OwnTypes.of(source.kernel()).types_from:
        return text
    with_types = modules_with_btf(source.kernel())
    without = sorted(module.name for module in modules if module.name not in with_types)
    if not without:
        return text
    names = ", ".join(plain(name) for name in without[:_NAMED])
    more = ", …" if len(without) > _NAMED else ""
    return f"{text}, {len(without)} of them without types: {names}{more}"


def _walk(
    source: Source, walk: Callable[[Program, Callable[[Lost], object]], Any]
) -> tuple[list[Any], str]:
    """What a walk yields, and in words what it lost."""
    lost: list[Lost] = []
    found: list[Any] = []
    for entry in walk(source.kernel(), lost.append):
        (lost if isinstance(entry, Lost) else found).append(entry)
    return found, f", {len(lost)} more cannot be read" if lost else ""


def _types(source: Source) -> bytes:
    if source.why:
        raise UnknownError(source.why)
    prog = source.kernel()
    prog.type("struct task_struct")
    own = OwnTypes.of(prog)
    return _words(own.types_from or f"DWARF: {prog.main_module().debug_file_path}")


def _symbols(source: Source) -> bytes:
    prog = source.kernel()
    prog.symbol("init_task")
    own = OwnTypes.of(prog)
    return _words(own.symbols_from or f"{prog.main_module().debug_file_path}")


def _words(text: str) -> bytes:
    """A text with the name of a file, which may have any characters."""
    return text.encode("utf-8", "surrogateescape")


#: Each fact: its name, what it says, and how it is read. A fact that cannot be read raises.
_FACTS: tuple[tuple[str, str, Callable[[Source], Any]], ...] = (
    ("file", "the file, or what is looked at instead", lambda s: s.path),
    ("format", "format of the file", _format),
    ("size", "size of the file, bytes", _of_file(lambda f: f.size)),
    ("dump_level", "pages left out (makedumpfile -d)", _of_file(lambda f: f.dump_level)),
    ("missing", "memory that is not in the file, by its headers", _missing),
    (
        "written",
        "when the file was written, by its header, UTC",
        _of_file(lambda f: _utc(f.written) if f.written else None),
    ),
    ("release", "release of the kernel, as uname -r prints it", _release),
    ("version", "text of /proc/version", lambda s: machine.linux_banner(s.kernel())),
    ("build_id", "build ID of the kernel", _build_id),
    ("hostname", "name of the machine", lambda s: machine.utsname(s.kernel(), "nodename")),
    ("machine", "machine, as uname -m prints it", _machine),
    ("architecture", "architecture, and size of pages", _architecture),
    ("time", "time of the dump by the kernel's clock, UTC", _time),
    ("uptime_s", "time since boot, seconds", _uptime),
    ("panic", "why the kernel panicked", _panic),
    ("crashed", "task that panicked", _crashed),
    ("taints", "what taints the kernel", lambda s: machine.taints(s.kernel())),
    ("processors", "processors", _processors),
    (
        "memory",
        "memory that the kernel manages (MemTotal), bytes",
        lambda s: machine.totalram_bytes(s.kernel()),
    ),
    ("tasks", "processes, and their threads", _tasks),
    ("net_namespaces", "network namespaces", _namespaces),
    ("modules", "modules that are loaded", _modules),
    ("types", "where types are from", _types),
    ("symbols", "where symbols are from", _symbols),
)


class Facts:
    """
    Facts of a core.

    :param names: The facts to read.
    """

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        #: What is known.
        self.known: dict[str, Any] = {}
        #: Why a fact is not known.
        self.unknown: dict[str, str] = {}
        for name, _, read in _FACTS:
            if name not in names:
                continue
            try:
                self.known[name] = read(source)
            except (UnknownError, UserError) as e:
                self.unknown[name] = str(e)
            except _ERRORS as e:
                self.unknown[name] = in_words(e) if isinstance(e, FaultError) else str(e)
            except Exception as e:
                # drgn raises a plain Exception for damage to a kdump file.
                if type(e) not in (Exception, BAD_DATA):
                    raise
                self.unknown[name] = str(e)


def _known(name: str) -> Callable[[Facts], Any]:
    return lambda facts: facts.known.get(name)


class CoreInfo(Command):
    """``core-info``."""

    name = "core-info"
    description = (
        "Each line stands for itself: where a file is damaged, or there are no types or symbols, "
        "the lines that need what is missing say 'unknown, because …', and the exit status is 1. "
        "A fact that the file has no place for is '-'. It works on a running kernel too."
    )
    columns = (
        *(Column(name, text, _known(name), True) for name, text, _ in _FACTS),
        Column("unknown", "what is not known, and why", lambda f: f.unknown, True),
    )

    def start(
        self,
        args: argparse.Namespace,
        open_target: Callable[[argparse.Namespace], Program],
        parse: Callable[[Sequence[str]], argparse.Namespace],
    ) -> int:
        if args.output == "help":
            return super().start(args, open_target, parse)
        self.chosen(args)
        core = getattr(args, "core", None)
        try:
            file = file_facts(core) if core is not None else None
        except OSError:
            # The reason is in the error that opening it raises.
            file = None
        prog, why = None, ""
        try:
            prog = open_target(args)
        except (UserError, *_ERRORS) as e:
            if core is not None and file is None:
                raise
            why = str(e)
            try:
                prog, _ = open_program(args)
            except (UserError, *_ERRORS):
                if core is None:
                    raise
            tell(why)
        return self._tell(Source(_path(args), file, prog, why), args)

    def run(self, prog: Program, args: argparse.Namespace, losses: Losses) -> int:
        path = prog.cache.get(CORE_PATH) or getattr(prog, "core_dump_path", None)
        try:
            file = file_facts(path) if path is not None and not is_live(prog) else None
        except OSError:
            file = None
        return self._tell(Source(_path(args, path), file, prog, ""), args)

    def _tell(self, source: Source, args: argparse.Namespace) -> int:
        chosen = self.chosen(args)
        facts = Facts(source, [column.name for column in chosen])
        if args.json or args.csv:
            self.emit([facts], args, Losses())
        else:
            for column in chosen:
                if column.name in facts.unknown:
                    text = f"unknown, because {printable(facts.unknown[column.name])}"
                elif column.name not in facts.known:
                    continue
                else:
                    value = facts.known[column.name]
                    text = "none" if value == [] else plain(value)
                sys.stdout.write(f"{column.name}: {text}\n")
        return TOLD if facts.unknown else OK

    def read_all(self, prog: Program, losses: Losses) -> None:
        # The log is left out: it has texts of all kinds, which a core to be sent should not have.
        source = Source(b"", None, prog, "")
        Facts(source, [name for name, *_ in _FACTS if name not in ("format", "panic", "crashed")])
        # What is not there is unknown on the new core too, and is told there.
        with contextlib.suppress(*_ERRORS):
            machine.panic_cpu(prog)


def _path(args: argparse.Namespace, path: str | None = None) -> bytes:
    qemu = getattr(args, "qemu", None)
    return (getattr(args, "core", None) or path or qemu or "/proc/kcore").encode(
        "utf-8", "surrogateescape"
    )
