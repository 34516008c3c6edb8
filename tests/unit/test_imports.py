# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a command imports: just what it needs, and by tables that must be whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import drgn
import pytest

import drgn_sockets
from drgn_sockets import demo
from drgn_sockets.records import kinds
from drgn_sockets.records.families import FAMILY_NAMES, family_named
from drgn_sockets.records.socket import OTHER

_LIST = "import sys; from drgn_sockets.cli import main; main(); print(*sys.modules)"
_FAMILIES = "drgn_sockets.records.families"
# Large, and for what few ask.
_RARE = {
    *("pathlib", "ipaddress", "dataclasses", "inspect", "json", "tabulate", "importlib.metadata"),
    *("drgn_sockets.records.tcp_info", "drgn_sockets.query.ssfilter", "drgn_sockets.views.lsof"),
    *("drgn_sockets.records.associated", "drgn_sockets.commands.fds_lsfd_columns"),
    *("drgn_sockets.commands.fds_lsof_columns", "drgn_sockets.commands.fds_summary"),
    "drgn_sockets.commands.ss_member_columns",
    *("drgn_sockets.query.find", "drgn_sockets.kernel.locks", "drgn_sockets.records.locks"),
}
if sys.version_info >= (3, 14):
    # argparse imports these itself, for its colors.
    _RARE -= {"dataclasses", "inspect"}


@pytest.mark.parametrize(
    ("words", "also"),
    [
        (
            ["ss", "-tuxap"],
            {
                *("drgn_sockets.records.fd", "drgn_sockets.query.fds"),
                *(f"{_FAMILIES}.{name}" for name in ("netlink", "packet", "raw", "vsock", "xdp")),
            },
        ),
        (["ss", "-xl"], {f"{_FAMILIES}.{name}" for name in ("mptcp", "sctp", "tcp", "udp")}),
        # Without wide characters in it, a table is aligned without wcwidth.
        (
            ["fds", "1"],
            {"wcwidth", *(f"drgn_sockets.records.kinds.{name}" for name in ("bpf_link", "tun"))},
        ),
    ],
)
def test_what_a_command_does_not_import(words: Sequence[str], also: set[str]) -> None:
    # Without "site", which has imports of its own.
    paths = [Path(drgn_sockets.__file__).parents[1], Path(drgn.__file__).parents[1]]
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LIST, "-c", str(demo.CORE), "--types=btf", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stdout.splitlines()[-1].split())
    assert "drgn_sockets.records.reader" in imported
    assert imported & (_RARE | also) == set()


def test_the_table_of_kinds_of_files() -> None:
    found = {
        name: [fops for kind in kinds._kinds_in(name) for fops in kind.fops]
        for name in kinds._modules()
    }
    assert {name: found.get(name) for name in kinds._MODULES} == kinds._MODULES
    assert all(kinds._kind_with(fops) in kinds.all_kinds() for fops in kinds._BY_FOPS)
    assert kinds._kind_with("no_fops") is None
    ends = {name for name in kinds._MODULES for kind in kinds._kinds_in(name) if has_end(kind)}
    assert ends == set(kinds._WITH_ENDS)


def test_a_kind_that_is_not_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pipe", "eventfd"):
        kind = kinds._kinds_in(name)[0]
        fops = kind.fops[0]
        kinds._kind_with.cache_clear()
        monkeypatch.delitem(kinds._MODULES, name)
        monkeypatch.delitem(kinds._BY_FOPS, fops)
        assert kinds._kind_with(fops) is kind
        assert kinds._kind_with("no_fops") is None
    kinds._kind_with.cache_clear()


def has_end(kind: kinds.Kind) -> bool:
    return type(kind).end is not kinds.Kind.end


def test_every_family_is_where_its_group_says() -> None:
    for name in FAMILY_NAMES:
        family = family_named(name)
        if name == OTHER:
            assert family is None
            continue
        assert family is not None
        assert family is family_named(name)
        assert {family.name, family.record.family_name, family.plain.family_name} == {name}


def test_tests_import_no_other_tests() -> None:
    """What several need is in a module of its own, whose name does not begin with ``test_``."""
    folder = Path(__file__).resolve().parents[1]
    pattern = re.compile(r"^\s*(?:from|import)\s.*\btest_\w+(?:\s|$)", re.MULTILINE)
    found = {
        str(path.relative_to(folder)): pattern.findall(path.read_text())
        for path in folder.rglob("*.py")
    }
    assert len(found) > 100
    assert {path: lines for path, lines in found.items() if lines} == {}
