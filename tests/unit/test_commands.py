# SPDX-License-Identifier: LGPL-2.1-or-later
"""What users type: states, options and mistakes; in a shell and in the REPL."""

from __future__ import annotations

import argparse
import gc
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drgn.commands import DEFAULT_COMMAND_NAMESPACE, CommandError

from drgn_sockets import cli, plugin
from drgn_sockets.commands import all_commands
from drgn_sockets.commands.base import Command
from drgn_sockets.commands.registry import REGISTRY
from drgn_sockets.commands.ss import Ss, _source, _states
from drgn_sockets.errors import UserError
from drgn_sockets.query.socket_tables import QUERIES, Tables
from drgn_sockets.query.ssfilter import parse
from drgn_sockets.version import package_version

from .fake_kernel import FakeKernel

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [command for command in all_commands() if command.name != "demo"]
NAMES = [command.name for command in COMMANDS]


def ss(*argv: str) -> frozenset[int]:
    parser = argparse.ArgumentParser()
    Ss().configure(parser)
    args = parser.parse_args(argv)
    return _states(args, parse(_source(args)), Tables(args))


CONNECTED = frozenset({1, 2, 4, 5, 8, 9, 11})
# Bound and no more is a state of its own.
ALL = frozenset({*range(1, 12), 13})


@pytest.mark.parametrize(
    ("argv", "states"),
    [
        ("", CONNECTED),
        ("-a", ALL),
        ("-l", {7, 10}),
        ("-B", {13}),
        # Of UDP and raw, ss shows by itself what is connected; of those below, all there is.
        ("-u", {1}),
        ("-w", {1}),
        ("-t", CONNECTED),
        ("-x", CONNECTED),
        ("-4", CONNECTED),
        ("-0", {7}),
        ("-f netlink", {7}),
        ("--xdp", {7}),
        ("--tipc", {1, 7, 10}),
        ("-u -0", {1, 7}),
        ("-t -f netlink", CONNECTED | {7}),
        ("-A netlink", CONNECTED),
        ("-A all", CONNECTED),
        ("-0 -a", ALL),
        ("-0 -l", {7, 10}),
        ("state established", {1}),
        ("state Established", {1}),
        ("state ESTAB", {1}),
        ("state time_wait", {6}),
        ("state established state listening", {1, 10}),
        ("exclude established", ALL - {1}),
        # As in ss.c: each word changes what those before it left.
        ("exclude established exclude listening", ALL - {1, 10}),
        ("exclude all exclude established", frozenset()),
        ("state connected exclude time-wait", ALL - {7, 10, 13, 6}),
        ("state all exclude listening state listening", ALL),
        ("exclude connected state established", {7, 10, 13, 1}),
        ("state established exclude all state closed", {7}),
        ("state synchronized exclude bucket", {1, 4, 5, 8, 9, 11}),
        # Without regard to -a and -l.
        ("-a state established", {1}),
        ("-l state established", {1}),
        ("-l exclude established", ALL - {1}),
        ("-a exclude listening", ALL - {10}),
    ],
)
def test_states(argv: str, states: set[int]) -> None:
    assert ss(*argv.split()) == states


@pytest.mark.parametrize(
    "argv", ["established", "state", "state nonsense", "exclude", "foo state all"]
)
def test_bad_states(argv: str) -> None:
    with pytest.raises(UserError) as raised:
        ss(*argv.split())
    # And two that show the place.
    assert len(str(raised.value).splitlines()) == 3


NAMES_OF_ALL = frozenset(QUERIES["all"])


@pytest.mark.parametrize(
    ("argv", "tables"),
    [
        ("", NAMES_OF_ALL),
        ("-t", {"tcp"}),
        ("-tu", {"tcp", "udp"}),
        # As of ss.c: filter_merge_defaults().
        ("-4", set(QUERIES["inet"])),
        ("-t -4", {"tcp"}),
        ("-x -4", {*QUERIES["unix"], *QUERIES["inet"]}),
        ("-x -t -6", {*QUERIES["unix"], "tcp"}),
        ("-A unix_stream -x", {"unix_stream"}),
        ("-A tcp,u_str -A netlink", {"tcp", "unix_stream", "netlink"}),
        ("-A all,!tcp", NAMES_OF_ALL - {"tcp"}),
        ("-A !tcp", NAMES_OF_ALL - {"tcp"}),
        ("-A inet,!raw,!ping", set(QUERIES["inet"]) - {"raw", "ping"}),
        ("-f vsock --packet", {*QUERIES["vsock"], *QUERIES["packet"]}),
        ("-MSd", {"mptcp", "sctp", "dccp"}),
    ],
)
def test_tables(argv: str, tables: set[str]) -> None:
    parser = argparse.ArgumentParser()
    Ss().configure(parser)
    names = Tables(parser.parse_args(argv.split())).names
    assert (NAMES_OF_ALL if names is None else set(names)) == tables


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("-A tcpp", ["no sockets 'tcpp'", "unix_stream", "did you mean 'tcp'?"]),
        ("-A tcp,", ["no sockets ''"]),
        ("-A tcp,!tcp", ["nothing is left"]),
        ("-f inett", ["no family 'inett'", "netlink", "did you mean 'inet'?"]),
        ("-K", ["-K closes sockets, and this command only reads memory"]),
        ("--kill dst 10.0.0.1", ["--kill closes sockets"]),
        ("-tE", ["-E waits"]),
        ("-D file", ["-D saves"]),
        ("-r", ["-r asks DNS"]),
        ("-Z", ["SELinux"]),
        ("-z", ["SELinux"]),
    ],
)
def test_what_ss_has_and_this_has_not(argv: str, words: list[str], shell: Any) -> None:
    status, out, err = shell("ss", *argv.split())
    assert (status, out) == (2, "")
    assert err.startswith("drgn-sockets ss: ") and err.count("\n") == 1
    assert [word for word in words if word not in err] == []


def test_words_on_both_sides_of_options() -> None:
    line = "-c core ss state listening -t sport = :22 -p or dport = :22 -A raw"
    args = cli.make_parser().parse_args(line.split())
    assert args.filter == ["state", "listening", "sport", "=", ":22", "or", "dport", "=", ":22"]
    assert (args.tcp, args.processes, args.query) == (True, True, ["raw"])
    assert args.core == "core"


def test_filter_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "filter"
    path.write_text("# those of us\nsport = :22\nor dport = :22\n")
    parser = argparse.ArgumentParser()
    Ss().configure(parser)
    args = parser.parse_args(["-F", str(path), "state", "all"])
    assert _source(args) == "state all sport = :22 or dport = :22"
    with pytest.raises(UserError, match="No such file"):
        _source(parser.parse_args(["-F", str(tmp_path / "none")]))


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run the command line: (status, what it printed, what it complained of)."""

    def run(*argv: str) -> tuple[int, str, str]:
        try:
            status = cli.main(argv)
        except SystemExit as e:
            status = e.code if isinstance(e.code, int) else 1
        out, err = capsys.readouterr()
        return status, out, err

    yield run
    gc.enable()


def options(command: Command) -> list[str]:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return [o for action in parser._actions for o in action.option_strings or [action.dest]]


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_help(shell: Any, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    status, out, err = shell(command.name, "--help")
    assert (status, err) == (0, "")
    assert command.summary[1:] in out
    flags = [o for o in options(command) if o.startswith("-")]
    assert {"--output", "--json", "--csv", "-H", "--help"} <= set(flags)
    for flag in flags:
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", out), flag


def test_the_registry_leads_to_the_commands() -> None:
    assert [command.name for command in all_commands()] == [entry.name for entry in REGISTRY]
    places = [f"{type(c).__module__}:{type(c).__name__}" for c in all_commands()]
    assert places == [entry.place for entry in REGISTRY]


def test_help_of_demo(shell: Any) -> None:
    status, out, err = shell("demo", "--help")
    assert (status, err) == (0, "")
    assert "A tour, on a core that comes with the package." in out and "COMMAND …" in out


@pytest.mark.parametrize("eager", [True, False])
def test_tools_can_walk_the_parser(eager: bool) -> None:
    """As argparse-manpage, shtab and sphinx-argparse do."""
    parser = cli.full_parser() if eager else cli.make_parser()
    (subparsers,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    summaries = {action.dest: action.help for action in subparsers._choices_actions}
    assert summaries == {entry.name: entry.summary for entry in REGISTRY}
    assert list(subparsers.choices) == [entry.name for entry in REGISTRY]
    for command in all_commands():
        # Also what argparse of Python 3.14 asks about help texts, of each parser that is added.
        own = subparsers.choices[command.name]
        assert isinstance(own, argparse.ArgumentParser)
        assert own.prog == f"drgn-sockets {command.name}"
        formatter = own._get_formatter()
        for action in own._actions:
            if action.help:
                assert formatter._expand_help(action)
        found = [o for action in own._actions for o in action.option_strings or [action.dest]]
        assert found == (options(command) if eager else ["-h", "--help"])
        assert (command.description in (own.description or "")) == (
            eager or not command.description
        )


def test_help_of_all(shell: Any) -> None:
    status, out, err = shell("--help")
    assert (status, err) == (0, "")
    for word in (
        *NAMES,
        "-k",
        "-c",
        "--qemu",
        "-s",
        "--debug-directory",
        "--version",
        "Exit status",
    ):
        assert word in out
    assert shell("--version")[:2] == (0, f"drgn-sockets {package_version()}\n")


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_help_of_columns_needs_no_target(shell: Any, command: Command) -> None:
    required = ["x"] if any(o == "what" for o in options(command)) else []
    required += ["-o", "x"] if command.name == "distill" else []
    # The core is not there, and nobody looks.
    status, out, err = shell("-c", "/nonexistent", command.name, *required, "--output", "help")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line[2:].split()[0] for line in lines] == [c.name for c in command.columns]
    assert [line[0] == "*" for line in lines] == [c.default for c in command.columns]
    assert all(c.help for c in command.columns)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], "where row field procfs memory"),
        (["--diag"], "where row field sock_diag memory"),
        (["--diag", "--attributes"], "attribute compared equal"),
    ],
)
def test_help_of_columns_is_of_the_options(shell: Any, options: list[str], names: str) -> None:
    status, out, _ = shell("check", *options, "--output", "help")
    assert (status, [line.split()[1] for line in out.splitlines()]) == (0, names.split())


def test_columns_have_one_name_each() -> None:
    for command in COMMANDS:
        names = [column.name for column in command.columns]
        assert len(set(names)) == len(names)
        # Those of a kind of file have its name before a dot; lsof has SIZE/OFF.
        assert all(re.fullmatch(r"[a-z0-9_]+([./][a-z0-9_]+)*", name) for name in names)


@pytest.mark.parametrize(
    "argv",
    [
        "",
        "nonsense",
        "--nonsense",
        "ss --nonsense",
        "ss --pid x",
        "ss --json --csv",
        "peer",
        "tcp",
        "-k -c /x ss",
        "--architecture pdp11 ss",
        "-c /nonexistent/core ss",
        "-c /dev ss",
        "-c /dev/null ss",
        "-c /dev/null -s /nonexistent ss",
        "--vmcoreinfo /nonexistent ss",
        "--qemu /nonexistent ss",
        "fds \n",
        "fds --a\nb",
    ],
)
def test_mistakes_are_one_line(shell: Any, argv: str, tmp_path: Path) -> None:
    words = argv.split(" ") if argv else []
    # Whoever runs this: not the kernel that we are on.
    if words and words[0] == "fds":
        words = ["-c", str(tmp_path / "no core"), *words]
    status, out, err = shell(*words)
    assert status == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("drgn-sockets")
    assert err.endswith("\n")


@pytest.fixture
def repl(monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up kernel is not quite one to drgn."""
    monkeypatch.setattr(plugin._Plugged, "enabled", lambda self, prog: True)


@pytest.mark.usefixtures("repl")
@pytest.mark.parametrize("name", NAMES)
def test_plugin_has_every_command(name: str) -> None:
    kernel = FakeKernel()
    plugged = DEFAULT_COMMAND_NAMESPACE.lookup(kernel.prog, name)
    command = next(c for c in COMMANDS if c.name == name)
    assert isinstance(plugged, plugin._Plugged)
    assert plugged.description() == command.summary
    assert plugged.format_usage().startswith(name)
    assert "--output" in plugged.format_help(indent="  ")
    assert all(
        not line or line.startswith("  ") for line in plugged.format_help(indent="  ").split("\n")
    )


def test_plugin_has_no_other_commands() -> None:
    assert [entry.name for entry in REGISTRY if entry.in_repl] == NAMES
    # Commands of a kernel are none of another program.
    assert not plugin._Plugged("ss").enabled(FakeKernel().prog)


@pytest.mark.usefixtures("repl")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("ss --nonsense", ["nonsense", "--help"]),
        ("ss --output nonsense", ["nonsense", "--output help"]),
        ("ss --json --csv", ["not allowed"]),
        ("peer", ["WHAT"]),
        ("check", ["--procfs"]),
        ("check --procfs /nonexistent/x", ["/nonexistent/x"]),
    ],
)
def test_mistakes_in_the_repl(source: str, words: list[str]) -> None:
    with pytest.raises(CommandError) as raised:
        DEFAULT_COMMAND_NAMESPACE.run(FakeKernel().prog, source)
    for word in words:
        assert word in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.usefixtures("repl")
def test_help_in_the_repl(capsys: pytest.CaptureFixture[str]) -> None:
    prog = FakeKernel().prog
    DEFAULT_COMMAND_NAMESPACE.run(prog, "fds --help")
    assert "--output" in capsys.readouterr().out
    DEFAULT_COMMAND_NAMESPACE.run(prog, "fds --output help")
    assert "mnt_id" in capsys.readouterr().out


def test_plugin_imports_little() -> None:
    # drgn imports it in every session.
    code = (
        "import sys, drgn_sockets.plugin; "
        "print(sorted(m for m in sys.modules if m == 'tabulate' or m.startswith('drgn_sockets.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (
        "['drgn_sockets.commands', 'drgn_sockets.commands.registry', 'drgn_sockets.messages', "
        "'drgn_sockets.plugin']"
    )
    # Nor does the package itself bring more along, before it is asked.
    code = "import sys, drgn_sockets as d; dir(d); print('drgn_sockets.helpers' in sys.modules)"
    code += "; print(d.unix_peer.__module__, sorted(set(d.__all__) - set(dir(d))))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\ndrgn_sockets.helpers []\n"
