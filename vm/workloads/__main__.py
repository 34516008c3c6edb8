# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python3 -m vm.workloads``: start, freeze, thaw, stop and list workloads."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

from . import ALL, STANDARD, control
from .process import be_daemon
from .verify import disagreements


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vm.workloads", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the workloads, with a line on each")
    start = commands.add_parser("start", help="start workloads and write their accounts")
    start.add_argument("names", nargs="+", metavar="NAME[:ARG]", help="'standard' is all but bench")
    start.add_argument("--timeout", type=float, default=180, help="seconds for each")
    run = commands.add_parser("run", help="be a workload's main process (used by start)")
    run.add_argument("name")
    run.add_argument("--ready-fd", type=int, required=True)
    run.add_argument("--timeout", type=float, default=180)
    freeze = commands.add_parser("freeze", help="stop all traffic, and wait until it settled")
    freeze.add_argument("--settle", type=float, default=1.0, help="seconds")
    thaw = commands.add_parser("thaw", help="let the traffic go on")
    verify = commands.add_parser("verify", help="hold the accounts against this procfs")
    stop = commands.add_parser("stop", help="kill all workloads and clean up after them")
    for command in (start, run, freeze, thaw, verify, stop):
        command.add_argument("--account", type=Path, required=True, metavar="DIR")
    return parser


def _list() -> None:
    for name in ALL:
        lines = (Path(__file__).parent / f"{name}.py").read_text().split('"""')[1].split("\n\n")
        group = "standard" if name in STANDARD else "-"
        print(f"{name:15} {group:9} {' '.join(lines[0].split())}")


def _verify(directory: Path) -> int:
    status = 0
    for account in control.load(directory):
        for line in disagreements(account):
            print(f"{account['workload']}: {line}")
            status = 1
        for row in account["skipped"]:
            print(f"{account['workload']}: skipped {row['what']}: {row['why']}")
    return status


def main() -> int:
    args = _parser().parse_args()
    try:
        if args.command == "list":
            _list()
        elif args.command == "start":
            names = [n for name in args.names for n in (STANDARD if name == "standard" else [name])]
            for account in control.start(names, args.account, args.timeout):
                print(control.summary(account), flush=True)
        elif args.command == "run":
            name, _, arg = args.name.partition(":")
            module = importlib.import_module(f"vm.workloads.{name}")
            be_daemon(
                name,
                arg,
                module.run,
                args.ready_fd,
                args.timeout,
                control.WORK / name,
                args.account.resolve() / f"{name}.log",
            )
        elif args.command == "freeze":
            print(f"{control.freeze(args.account, args.settle)} processes stopped")
        elif args.command == "thaw":
            print(f"{control.thaw(args.account)} processes go on")
        elif args.command == "verify":
            return _verify(args.account)
        else:
            print(f"{control.stop(args.account)} processes killed")
    except (control.WorkloadFailed, OSError, json.JSONDecodeError) as error:
        print(f"vm.workloads: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
