# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is measured on cores."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Callable

from vm import cache, crash, kernels, project
from vm.bench import cores
from vm.bench.work import Word, Work
from vm.errors import VmError

FORMS = ("ELF", "kdump")
TYPES = ("BTF", "DWARF")

FDS = "fds"
SS = "ss -tuxap"
TCP = "ss -tiemop"
CHECK = "check --procfs"

# Names that targets ask for.
FLOOR = "floor: one read a structure"
PLAIN = "drgn's own way, TCP, 5 columns"
DECODE = "decode: TCP records over reads"
CRASH_FILES = "crash, foreach files"
CRASH_NET = "crash, net -s PID"
START = "start: fds of one process"

_SCRIPTS = Path(__file__).parent / "scripts"
# Use the package of this tree, whatever is installed, and in whatever directory we are.
_ENV = {"PYTHONPATH": os.pathsep.join([str(project.ROOT), os.environ.get("PYTHONPATH", "")])}


def ours(core: Word, types: str, command: str, *words: Word, name: str) -> Work:
    """Make a work of one of our commands."""
    options: list[Word] = ["--types=btf"]
    if types == "DWARF":
        options = ["--types=dwarf", "-s", _vmlinux]
    return Work(
        name,
        [sys.executable, "-m", "drgn_sockets", "-c", core, *options, *command.split(), *words],
        cwd=str(project.ROOT),
        env=_ENV,
    )


def script(core: Word, file: str, *, name: str, plugin: bool = False) -> Work:
    """Make a work of a drgn script; our plugin is loaded only with *plugin*."""
    drgn = str(Path(sys.executable).with_name("drgn"))
    return Work(
        name,
        [drgn, "--main-symbols", "-s", _vmlinux, "-c", core, str(_SCRIPTS / file)],
        env=_ENV if plugin else {**_ENV, "DRGN_DISABLE_PLUGINS": "drgn_sockets"},
    )


def _vmlinux() -> Path:
    return kernels.get(cores.KERNEL).vmlinux


def of(machine: str, what: str) -> str:
    """Get the name of a work on the core of a machine."""
    return f"{machine}: {what}"


def with_types(what: str, types: str) -> str:
    """Get the name of a command with a source of types."""
    return f"{what}, {types}"


def _core(pairs: int, form: str) -> Callable[[], Path]:
    return lambda: cores.cores(pairs).core(form)


def _sparse(form: str) -> Path:
    return cores.sparse_cores()[FORMS.index(form)]


def on_full(form: str) -> Iterator[Work]:
    """Get the works on the core with 160,000 file descriptors."""
    core = _core(cores.PAIRS, form)
    yield script(core, "floor.py", name=of(form, FLOOR))
    yield script(core, "plain.py", name=of(form, PLAIN))
    yield script(core, "decode.py", name=of(form, DECODE), plugin=True)
    for types in TYPES:
        yield ours(core, types, "fds 1", name=of(form, with_types(START, types)))
        for command, against in ((FDS, CRASH_FILES), (SS, CRASH_NET), (TCP, PLAIN)):
            for what in (command, f"{command} --json"):
                work = ours(core, types, what, name=of(form, with_types(what, types)))
                work.against = of(form, against)
                yield work
        check = of(form, with_types(CHECK, types))
        yield ours(core, types, CHECK, lambda: _full().oracle, name=check)


def on_others() -> Iterator[Work]:
    """Get the works on a tenth of that, on twice as much, and with a hole of 100 GiB."""
    for machine, pairs in (("tenth", cores.SMALL), ("twice", cores.DOUBLE)):
        for command in (START, FDS, SS):
            yield ours(
                _core(pairs, "ELF"),
                "BTF",
                "fds 1" if command == START else command,
                name=of(f"ELF, {machine}", with_types(command, "BTF")),
            )
    small = of("kdump, tenth", with_types(SS, "BTF"))
    yield ours(_core(cores.SMALL, "kdump"), "BTF", SS, name=small)
    for form in FORMS:
        work = ours(
            functools.partial(_sparse, form),
            "BTF",
            SS,
            name=of(f"{form}, 100 GiB", with_types(SS, "BTF")),
        )
        work.against = of(f"{form}, tenth", with_types(SS, "BTF"))
        yield work


def on_crash(form: str, it: crash.Crash) -> Iterator[Work]:
    """Get the works of crash that correspond to ours, on the same core."""
    for name, command, count, want in (
        (CRASH_FILES, lambda: "foreach files", crash.files_in, 8 * cores.PAIRS),
        (CRASH_NET, lambda: f"net -s {_full().pid}", crash.sockets_in, 4 * cores.PAIRS),
    ):
        file = functools.partial(_commands, command)
        core = f"core.{form.lower()}"
        yield Work(
            of(form, name),
            [*it.argv, "-s", "-i", file, _vmlinux, core],
            cwd=lambda: _full().where,
            judge=functools.partial(_judge, count, want),
        )


def _full() -> cores.Cores:
    return cores.cores(cores.PAIRS)


def _commands(command: Callable[[], str]) -> Path:
    """Write a file of commands for crash."""
    text = command()
    path = cache.root() / "bench" / f"crash-{text.split()[0]}"
    path.write_text(f"{text}\nquit\n")
    return path


def _judge(count: Callable[[IO[bytes]], int], want: int, output: IO[bytes]) -> str | None:
    """Say what is wrong if the output does not have all of the machine, and a few more at most."""
    there = count(output)
    return None if want <= there < want + 1000 else f"DOES NOT COUNT: prints {there} of {want}"


def get_crash() -> tuple[crash.Crash | None, list[str]]:
    """Get crash, or a remark that says why there is none."""
    try:
        return crash.get(), []
    except VmError as e:
        return None, [f"no crash to compare with: {e}"]


def all_of_them(it: crash.Crash | None) -> list[Work]:
    """Get all works on cores, in the order in which they are run and shown."""
    found: list[Work] = []
    for form in FORMS:
        if it is not None:
            found += on_crash(form, it)
        found += on_full(form)
    return [*found, *on_others()]
