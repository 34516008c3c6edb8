# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check --diag`` on a kernel that is busy: each attribute of each socket as sock_diag has it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drgn import Program

from drgn_sockets.check import diag, sock_diag
from drgn_sockets.check.sock_diag import Reply, Unanswered
from drgn_sockets.views.diag import KINDS, inet
from drgn_sockets.views.diag.base import Diag
from vm.workloads import syscalls

from . import truth

_SUMMARY = re.compile(
    r"^(\d+) sockets, (\d+) attributes compared, (\d+) equal; (\d+) moved between looks; "
    r"(\d+) mismatches$",
    re.MULTILINE,
)


def check(prog: Program, *options: str, status: int = 0) -> tuple[list[Any], list[int], str]:
    """Rows, numbers of the summary, and standard error of ``check --diag --json``."""
    done = truth.cli(prog, "check", "--diag", "--json", *options, status=status)
    match = _SUMMARY.search(done.stderr)
    assert match, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return rows, list(map(int, match.groups())), done.stderr


def cookies() -> set[tuple[int, bytes]]:
    """Family and cookie of each socket that sock_diag tells of here, of the kinds that we know."""
    at: dict[int, int] = {socket.AF_UNIX: 8, socket.AF_INET: 44, socket.AF_INET6: 44}
    return {
        (reply.family, reply.message[at[reply.family] : at[reply.family] + 8])
        for reply in sock_diag.ask()
        if reply.family in at
        and any(reply.family in k.families and reply.protocol in k.protocols for k in KINDS)
    }


@pytest.mark.parametrize("attempt", [1, pytest.param(2, marks=pytest.mark.ours)])
def test_everything_is_equal_under_traffic(
    attempt: int, prog: Program, accounts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = cookies()
    rows, (sockets, compared, equal, moved, mismatches), err = check(prog, "--attributes")
    after = cookies()
    with capsys.disabled():
        print(f"\n{err.splitlines()[-1]}")
    assert mismatches == 0 and compared == equal
    assert all(row["compared"] == row["equal"] for row in rows)
    # There are other network namespaces as well.
    assert sockets + moved >= len(before & after)
    told = {row["attribute"]: row["compared"] for row in rows}
    known = {a.name for kind in KINDS for a in kind.attributes}
    assert known <= told.keys()
    for name in ("INFO", "CONG", "TOS", "TCLASS", "MARK", "SKMEMINFO", "CGROUP_ID", "SOCKOPT"):
        assert told[f"INET_DIAG_{name}"] > 20, name
    for name in ("NAME", "VFS", "PEER", "ICONS", "RQLEN", "MEMINFO", "UID"):
        assert told[f"UNIX_DIAG_{name}"] > 5, name


# What BPF programs keep with sockets; nothing else here makes such.

_BPF_MAP_CREATE, _BPF_MAP_UPDATE_ELEM, _BPF_BTF_LOAD = 0, 2, 18
_BPF_MAP_TYPE_SK_STORAGE = 24
_BPF_F_NO_PREALLOC = 1


def _bpf(command: int, form: str, *values: int) -> int:
    attributes = ctypes.create_string_buffer(struct.pack("=" + form, *values), 128)
    return syscalls.syscall("bpf", command, attributes, 128)


def _btf() -> int:
    """Types for a map: 1 is ``int``, 2 ``struct s { int a, b, c; }``."""
    strings = b"\0int\0s\0a\0b\0c\0"
    at = {
        name: strings.index(b"\0" + name + b"\0") + 1 for name in (b"int", b"s", b"a", b"b", b"c")
    }
    types = struct.pack("=4I", at[b"int"], 1 << 24, 4, 1 << 24 | 32)
    types += struct.pack("=3I", at[b"s"], 4 << 24 | 3, 12)
    for i, name in enumerate((b"a", b"b", b"c")):
        types += struct.pack("=3I", at[name], 1, 32 * i)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    blob = ctypes.create_string_buffer(header + types + strings)
    return _bpf(_BPF_BTF_LOAD, "QQIII", ctypes.addressof(blob), 0, len(blob) - 1, 0, 0)


@pytest.fixture
def stored() -> Iterator[dict[int, list[bytes]]]:
    """Sockets with what is kept with them, by inode."""
    # Before 5.11 maps are locked memory, of which the workloads have most of root's.
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
    btf = _btf()
    maps: dict[int, int] = {}
    for size, type_ in ((4, 1), (12, 2)):
        create = (_BPF_MAP_TYPE_SK_STORAGE, 4, size, 0, _BPF_F_NO_PREALLOC, *(0,) * 7, btf, 1)
        maps[size] = _bpf(_BPF_MAP_CREATE, "15I", *create, type_)
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    found: dict[int, list[bytes]] = {}
    for sock, sizes in ((listener, [4]), (client, [4, 12])):
        for size in sizes:
            value = ctypes.create_string_buffer(os.urandom(size), size)
            key = ctypes.create_string_buffer(struct.pack("=i", sock.fileno()), 4)
            where = (ctypes.addressof(key), ctypes.addressof(value), 0)
            try:
                _bpf(_BPF_MAP_UPDATE_ELEM, "I4xQQQ", maps[size], *where)
            except OSError as e:
                # Linux 7.0 and later allocates them with kmalloc_nolock().
                assert e.errno == errno.ENOMEM and "cx16" not in Path("/proc/cpuinfo").read_text()
                pytest.skip("this kernel keeps nothing with sockets on a CPU without cmpxchg16b")
            found.setdefault(os.fstat(sock.fileno()).st_ino, []).append(value.raw)
    yield found
    for fd in (*maps.values(), btf):
        os.close(fd)
    for sock in (listener, client):
        sock.close()


def test_what_bpf_programs_keep(prog: Program, stored: dict[int, list[bytes]]) -> None:
    told = {
        struct.unpack_from("=I", reply.message, 68)[0]: reply.message
        for reply in sock_diag.ask()
        if (reply.family, reply.protocol) == (socket.AF_INET, socket.IPPROTO_TCP)
    }
    # The kernel does tell.
    assert all(value in told[ino] for ino, values in stored.items() for value in values)
    rows, (_, _, _, _, mismatches), _ = check(prog, "--attributes")
    (row,) = (row for row in rows if row["attribute"] == "INET_DIAG_SK_BPF_STORAGES")
    assert mismatches == 0
    assert (row["compared"], row["equal"]) == (len(stored), len(stored))


@pytest.mark.ours
def test_one_flipped_bit_is_found_and_named(
    prog: Program, scene: truth.Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = scene.ino("tcp listener")
    right = inet.info

    def broken(made: Diag, record: Any) -> bytes | None:
        data = right(made, record)
        if data is None or record.ino != ino:
            return data
        # tcpi_reordering
        place = next(p for p in made.structure("struct tcp_info").places if "reord" in p.path)
        return data[: place.offset] + b"\x07" + data[place.offset + 1 :]

    attributes = [a._replace(build=broken) if a.build is right else a for a in inet.ATTRIBUTES]
    monkeypatch.setitem(vars(inet.KIND), "attributes", tuple(attributes))
    monkeypatch.setattr(diag, "_TRIES", 2)
    rows, (_, compared, equal, _, mismatches), _ = check(prog, status=1)
    assert compared == equal + 1 and mismatches == 1
    (row,) = rows
    assert row["field"] == "INET_DIAG_INFO.tcpi_reordering"
    assert (row["sock_diag"], row["memory"]) == ("3", "7")
    assert f"inode {ino}" in row["row"] and row["where"].startswith("tcp of netns ")


@pytest.mark.ours
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ImportError("pyroute2"), "pyroute2, which is not installed"),
        (PermissionError(1, "Operation not permitted"), "Operation not permitted"),
        (
            OSError(93, "Protocol not supported"),
            "sock_diag cannot be asked: Protocol not supported",
        ),
        (ValueError("byte 16: cut off"), "byte 16: cut off"),
    ],
)
def test_what_goes_wrong_is_one_line(
    prog: Program, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def ask(netns: object = None, unanswered: list[Unanswered] | None = None) -> Iterator[Reply]:
        raise error
        yield

    monkeypatch.setattr(sock_diag, "ask", ask)
    done = truth.cli(prog, "check", "--diag", status=2)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("drgn-sockets: ") and says in line


@pytest.mark.ours
def test_a_live_kernel_against_what_was_saved(prog: Program, tmp_path: Path) -> None:
    """Replies of one's own namespace in a file, without a directory around it."""
    path = tmp_path / "replies"
    sock_diag.save(sock_diag.ask(), path)
    done = truth.cli(prog, "check", "--diag", str(path), status=1)
    # What moves since is told; but most stays.
    match = _SUMMARY.search(done.stdout)
    assert match and int(match[1]) > 100
    with contextlib.suppress(ValueError):
        assert int(match[3]) > int(match[2]) * 0.9
