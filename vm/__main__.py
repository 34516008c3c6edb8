# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m vm``: boot a kernel, and use it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import stat
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from vm import distilled, dump, kernels, panic
from vm.errors import GuestError, VmError
from vm.guest import BOOT_SECONDS, SILENCE_SECONDS, Guest
from vm.kernels import Kernel

EPILOG = f"""\
exit status:
  0-123, 126-255  of the command in the guest (run, test, shell); 128+N if signal N killed it
  124             the command took longer than --timeout
  125             the guest panicked, hung (silent for {SILENCE_SECONDS:.0f} seconds), went away,
                  or was not up within {BOOT_SECONDS:.0f} seconds; its last lines are shown
  2               could not start: bad usage, no such kernel, no space, no QEMU
  130, 129, 143   interrupted (SIGINT, SIGHUP, SIGTERM)

Messages of our own start with "vm: ", on standard error. Kernels, the guest's root and
recorded dumps are cached in $XDG_CACHE_HOME/drgn-sockets (~/.cache/drgn-sockets).
"""


class Interrupted(BaseException):
    """A signal asks us to end; on the way out, QEMU is ended as well."""

    def __init__(self, number: int) -> None:
        self.number = number


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    # Only once: cleaning up must not be interrupted.
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, signal.SIG_IGN)
    raise Interrupted(number)


def _memory(text: str) -> str:
    try:
        size = dump.memory_bytes(text)
    except VmError as e:
        raise argparse.ArgumentTypeError("give a number with M or G, such as 1G") from e
    if size < 256 << 20:
        raise argparse.ArgumentTypeError("a guest needs 256M at least")
    return text


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be positive")
    return value


def _names(text: str) -> list[str]:
    return [w for w in text.split(",") if w]


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def _cpus(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 255:
        raise argparse.ArgumentTypeError("must be 1 to 255")
    return value


# Option: its default, and arguments of add_argument(). Options stand before or after the command.
GUEST: dict[str, tuple[Any, dict[str, Any]]] = {
    "--kernel": (
        None,
        {
            "metavar": "SERIES",
            "help": f"Debian cloud kernel to boot: {', '.join(s.name for s in kernels.SERIES)} "
            f"(default {kernels.DEFAULT}); the newest of the series is fetched",
        },
    ),
    "--package": (
        None,
        {
            "metavar": "NAME[/SUITE]",
            "help": "boot the kernel of this Debian package instead, such as linux-image-amd64 or "
            "linux-image-rt-amd64/trixie; without debug info",
        },
    ),
    "--vmlinuz": (
        None,
        {"type": Path, "metavar": "FILE", "help": "boot this bzImage of your own instead"},
    ),
    "--vmlinux": (
        None,
        {"type": Path, "metavar": "FILE", "help": "with this DWARF (of --vmlinuz or --kernel)"},
    ),
    "--modules": (
        None,
        {
            "type": Path,
            "metavar": "DIR",
            "help": "with these modules: .../lib/modules/RELEASE, or an INSTALL_MOD_PATH. "
            "Without them a --vmlinuz needs CONFIG_VIRTIO_{PCI,BLK,CONSOLE}, CONFIG_EXT4_FS and "
            "CONFIG_FW_CFG_SYSFS built in",
        },
    ),
    "--memory": ("1G", {"type": _memory, "metavar": "SIZE", "help": "of the guest (default 1G)"}),
    "--cpus": (2, {"type": _cpus, "metavar": "N", "help": "of the guest (default 2)"}),
    "--accel": (
        "auto",
        {
            "choices": ("auto", "kvm", "tcg"),
            "help": "auto: KVM if a guest runs under it here, else TCG (emulation)",
        },
    ),
    "--vmcoreinfo": (
        True,
        {
            "action": argparse.BooleanOptionalAction,
            "help": "have VMCOREINFO in dumps, by QEMU's device of that name (default)",
        },
    ),
    "--append": ("", {"metavar": "ARGS", "help": "more kernel command line arguments"}),
    "--qemu-args": (
        (),
        {
            "type": _words,
            "metavar": "ARGS",
            "help": "more arguments of QEMU, as in --qemu-args='-M q35'",
        },
    ),
    "--refresh": (
        False,
        {"action": "store_true", "help": "ask the mirror for a newer kernel now, not once a day"},
    ),
    "--console": (
        False,
        {"action": "store_true", "help": "show the guest's console on standard error"},
    ),
}


def _guest_options(
    p: argparse.ArgumentParser,
    *,
    workload: Sequence[str] = (),
    timeout: float | None = None,
    qmp: str | None = None,
) -> None:
    for option, (_, how) in GUEST.items():
        p.add_argument(option, default=argparse.SUPPRESS, **how)
    p.add_argument(
        "--workload",
        type=_names,
        default=argparse.SUPPRESS,
        metavar="NAME[,NAME...]",
        help="workloads to start first, see `run python3 -m vm.workloads list` "
        f"(default {','.join(workload) or 'none'})",
    )
    p.set_defaults(default_workload=list(workload), default_timeout=timeout)
    if timeout is not None:
        p.add_argument(
            "--timeout",
            type=_positive,
            default=argparse.SUPPRESS,
            metavar="SECONDS",
            help=f"end the command that many seconds after the guest is up (default {timeout:g})",
        )
    if qmp is not None:
        p.add_argument(
            "--qmp",
            type=Path,
            default=None,
            metavar="SOCKET",
            required=qmp == "required",
            help="make a monitor socket there, for `drgn --qemu SOCKET` from outside",
        )


def parser() -> argparse.ArgumentParser:
    """Build the parser of our command line."""
    p = argparse.ArgumentParser(
        prog="python -m vm",
        description="Real kernels in QEMU: fetch, boot, load, dump, run tests inside.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option, (default, how) in GUEST.items():
        p.add_argument(option, default=default, **{**how, "help": argparse.SUPPRESS})
    p.add_argument("--workload", type=_names, default=None, help=argparse.SUPPRESS)
    p.add_argument("--timeout", type=_positive, default=None, help=argparse.SUPPRESS)
    sub = p.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str, more: str = "") -> argparse.ArgumentParser:
        return sub.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}. {more}".strip(),
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    c = command("shell", "work in a guest, in the project's tree (/src)")
    _guest_options(c, qmp="optional")

    c = command(
        "run",
        "run a command in a fresh guest",
        "Its standard streams and exit status are\nthis command's own. "
        "It runs as root, in the project's tree (/src).",
    )
    _guest_options(c, timeout=600, qmp="optional")
    c.add_argument(
        "--debug-info",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="have the vmlinux in the guest, which is a large download the first time "
        "(default: if the command is drgn, drgn-sockets, python or pytest)",
    )
    c.add_argument(
        "--icount",
        action="store_true",
        help="one processor, and a clock that counts instructions (10^9 a second): times do not "
        "depend on the host",
    )
    c.add_argument("argv", nargs=argparse.REMAINDER, metavar="CMD ...")

    c = command(
        "test",
        "run pytest in a fresh guest, against its live kernel",
        "All other\narguments are passed to pytest; those after `--` without being looked at.",
    )
    c.usage = "python -m vm test [OPTION ...] [--] [PYTEST ARGS ...]"
    _guest_options(c, timeout=3600)
    c.add_argument(
        "--debug-info",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="have the vmlinux in the guest, which is a large download the first time "
        "(default); without, types are from the kernel's own BTF",
    )

    c = command(
        "dump",
        "boot, start workloads, record what procfs and tools say, stop, and dump",
        "Core and\noracle are of the same moment.",
    )
    _guest_options(c, workload=["standard"])
    c.add_argument("-o", "--output", type=Path, metavar="FILE", help="the core file to write")
    c.add_argument("--format", choices=tuple(dump.FORMATS), default="elf", help="(default elf)")
    c.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="FORMAT:FILE",
        help="a second core of the same moment, such as kdump:FILE2",
    )
    c.add_argument(
        "--oracle", type=Path, metavar="DIR", help="where the oracle goes (default FILE.oracle)"
    )
    c.add_argument(
        "--crash",
        nargs="?",
        const=panic.DEFAULT,
        metavar="HOW",
        help="let the guest panic, and its crash kernel write the core: HOW are options of "
        f"makedumpfile (default {panic.DEFAULT!r}; write --crash='-c -d 0'), `elf`, or `copy` for "
        "a plain copy of /proc/vmcore",
    )
    c.add_argument(
        "--cached",
        action="store_true",
        help="instead of all these: take elf and kdump from the cache, recording them if they are "
        "not there, and print the paths as JSON",
    )

    c = command(
        "hold",
        "keep a guest to attach to, until SIGTERM, Ctrl-C or end of input",
        "Prints a line\nof JSON when it is ready: ready, qmp, vmlinux, oracle.",
    )
    _guest_options(c, workload=["standard"], qmp="required")
    c.add_argument(
        "--oracle",
        type=Path,
        metavar="DIR",
        help="bring the workloads to rest, and record what procfs and tools say there",
    )

    c = command(
        "demo-core",
        "make the core that comes with the package",
        "A guest with\nmost of the standard workloads, dumped (or from the cache), distilled, "
        "and its oracle, packed.",
    )
    _guest_options(c)
    c.add_argument(
        "-o",
        "--output",
        type=Path,
        default=distilled.PLACE,
        metavar="DIR",
        help="where to, instead of drgn_sockets/demo",
    )

    c = command("list", "list the kernels known, and what of them is cached")
    c.add_argument("--json", action="store_true", help="one JSON object a line")
    return p


def _kernel(args: argparse.Namespace) -> Kernel:
    if args.package is not None:
        if args.kernel or args.vmlinuz or args.vmlinux or args.modules:
            raise VmError("--package goes without --kernel, --vmlinuz, --vmlinux and --modules")
        return kernels.package(args.package, refresh=args.refresh)
    return kernels.own(
        vmlinuz=args.vmlinuz,
        vmlinux=args.vmlinux,
        modules=args.modules,
        base=args.kernel,
        refresh=args.refresh,
    )


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "memory": args.memory,
        "cpus": args.cpus,
        "accel": args.accel,
        "append": args.append,
        "arguments": args.qemu_args,
        "vmcoreinfo": args.vmcoreinfo,
        "echo": 2 if args.console else None,
    }


def _stdin() -> int | None:
    """Get the standard input of the command; ``None`` for a terminal."""
    try:
        fd = sys.stdin.fileno()
        return None if os.isatty(fd) else fd
    except (AttributeError, OSError, ValueError):  # closed
        return None


def _run(
    args: argparse.Namespace,
    argv: Sequence[str],
    *,
    debug: bool,
    qmp: Path | None = None,
    icount: bool = False,
) -> int:
    kernel = _kernel(args)
    settings = {**_settings(args), **({"icount": True} if icount else {})}
    with Guest(kernel, debug=debug and kernel.has_debug, qmp=qmp, **settings) as guest:
        guest.start_workloads(args.workload)
        done = guest.run(
            argv,
            stdin=_stdin(),
            stdout=sys.stdout.buffer,
            stderr=sys.stderr.buffer,
            timeout=args.timeout,
            # The threads with which drgn indexes debugging symbols spin while they wait for each
            # other. Where one thread runs all processors (see vm.qemu), that takes a quarter of
            # the time.
            env={"DRGN_SOCKETS_VM": kernel.name, "OMP_NUM_THREADS": "1"},
        )
    return done.returncode


def run(args: argparse.Namespace) -> int:
    """Run ``python -m vm run``."""
    argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not argv:
        raise VmError("run: say what to run, as in `python -m vm run uname -a`")
    debug = args.debug_info
    if debug is None:
        name = Path(argv[0]).name
        debug = name.startswith(("drgn", "python", "pytest")) or "drgn" in " ".join(argv)
    return _run(args, argv, debug=debug, qmp=args.qmp, icount=args.icount)


def test(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run ``python -m vm test``."""
    return _run(args, ["python3", "-m", "pytest", *rest], debug=args.debug_info)


def shell(args: argparse.Namespace) -> int:
    """Run ``python -m vm shell``."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise VmError("shell needs a terminal; for scripts there is `run`")
    kernel = _kernel(args)
    with Guest(kernel, debug=kernel.has_debug, qmp=args.qmp, **_settings(args)) as guest:
        guest.start_workloads(args.workload)
        return guest.shell()


def _regular(path: Path) -> Path:
    """
    The file that *path* leads to: a dump is renamed over it when it is complete.

    :raises VmError: if it is another thing than a regular file
    """
    real = path.resolve()
    if real.exists() and not real.is_file():
        raise VmError(f"{path} is not a regular file; give another")
    return real


def _beside(core: Path) -> Path:
    return core.with_name(core.name + ".oracle")


def do_dump(args: argparse.Namespace) -> int:
    """Run ``python -m vm dump``."""
    settings = _settings(args)
    if args.crash is not None:
        if args.cached or args.also or args.format != "elf":
            raise VmError("dump: --crash goes without --cached, --also and --format")
        if args.output is None:
            raise VmError("dump: say where to, with -o FILE")
        crashed = panic.save(
            _regular(args.output),
            how=args.crash,
            kernel=_kernel(args),
            workloads=args.workload,
            oracle=(args.oracle or _beside(args.output)).absolute(),
            **settings,
        )
        print(crashed.json())
        return 0
    if args.cached:
        if args.output or args.also or args.oracle:
            raise VmError("dump: --cached goes without -o, --also and --oracle")
        settings.pop("echo")
        for k, (default, _) in GUEST.items():
            # Defaults are not part of the key, so that callers from Python get the same entry.
            name = {"--qemu-args": "arguments"}.get(k, k[2:])
            if settings.get(name, ...) == default and k != "--memory":
                settings.pop(name)
        print(dump.cached(_kernel(args), ",".join(args.workload), **settings).json())
        return 0
    if args.output is None:
        raise VmError("dump: say where to, with -o FILE (or use --cached)")
    files = {args.format: _regular(args.output)}
    for also in args.also:
        kind, _, path = also.partition(":")
        if kind not in dump.FORMATS or not path:
            formats = ", ".join(dump.FORMATS)
            raise VmError(f"--also {also}: give FORMAT:FILE, FORMAT one of {formats}")
        if kind in files:
            raise VmError(f"--also {also}: there is a core in that format already")
        files[kind] = _regular(Path(path))
    oracle = args.oracle or _beside(args.output)
    made = dump.dump(
        files,
        kernel=_kernel(args),
        workloads=args.workload,
        oracle=oracle.absolute(),
        **settings,
    )
    print(made.json())
    return 0


def hold(args: argparse.Namespace) -> int:
    """Run ``python -m vm hold``."""
    kernel = _kernel(args)
    vmlinux = str(kernel.vmlinux) if kernel.has_debug else None
    oracle = args.oracle.absolute() if args.oracle else None
    stop = threading.Event()

    def wait_for_eof(fd: int) -> None:
        while os.read(fd, 4096):
            pass
        stop.set()

    with dump.held(
        args.qmp, kernel=kernel, workloads=args.workload, oracle=oracle, **_settings(args)
    ) as guest:
        ready = {
            "ready": True,
            "qmp": str(args.qmp.absolute()),
            "vmlinux": vmlinux,
            "oracle": str(oracle) if oracle else None,
            "release": guest.release,
        }
        print(json.dumps(ready), flush=True)
        fd = _stdin()
        # A pipe ends when the parent is gone. The end of /dev/null (a service) means nothing.
        if fd is not None and not stat.S_ISCHR(os.fstat(fd).st_mode):
            threading.Thread(target=wait_for_eof, args=(fd,), daemon=True).start()
        dump.wait_for_end(guest, stop)
    return 0


def demo_core(args: argparse.Namespace) -> int:
    """Run ``python -m vm demo-core``."""
    if args.kernel is None:
        args.kernel = distilled.KERNEL
    for path in distilled.make(_kernel(args), args.output):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def list_kernels(args: argparse.Namespace) -> int:
    """Run ``python -m vm list``."""
    for row in kernels.known():
        if args.json:
            print(json.dumps(row))
        else:
            have = row["release"] or "not cached"
            debug = " with debug info" if row["debug"] else ""
            print(f"{row['series']:8} {row['suite']:10} {have}{debug}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    after: list[str] = []
    p = parser()
    args, rest = p.parse_known_args(words)
    if args.command == "test":
        # Arguments of pytest need no "--"; those that could be ours are passed after one.
        if "--" in words:
            at = words.index("--")
            after = words[at + 1 :]
            args, rest = p.parse_known_args(words[:at])
    elif rest:
        p.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.command != "list":
        if args.workload is None:
            args.workload = args.default_workload
        if args.timeout is None:
            args.timeout = args.default_timeout
    if args.command == "test":
        return test(args, [*rest, *after])
    commands = {
        "run": run,
        "shell": shell,
        "dump": do_dump,
        "hold": hold,
        "demo-core": demo_core,
        "list": list_kernels,
    }
    return commands[args.command](args)


def entry() -> NoReturn:
    """Run the command line: set up signals, print errors, return the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    status = 2
    try:
        status = main()
    except Interrupted as e:
        status = 128 + e.number
    except BrokenPipeError:
        # The reader of our output has gone: nothing more can be flushed to it.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 128 + signal.SIGPIPE
    except VmError as e:
        print(f"vm: {e}", file=sys.stderr)
        if isinstance(e, GuestError) and e.console:
            print("vm: the last lines of its console:", file=sys.stderr)
            print("\n".join("  | " + line for line in e.console.splitlines()), file=sys.stderr)
        status = e.status
    except OSError as e:
        print(f"vm: {e}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    entry()
