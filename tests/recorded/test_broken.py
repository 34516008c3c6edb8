# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernels whose memory is damaged: a bad pointer costs its own row and no other.

A copy of the core is damaged at one place, looked at, and mended. What must still be there is
what was there before the damage, in the same core, less what hangs on the bad pointer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from drgn import FaultError, Object, Program, cast, offsetof
from drgn.helpers.linux.net import for_each_net
from drgn.helpers.linux.pid import find_task

from drgn_sockets.cli import make_parser
from drgn_sockets.kernel.cgroup import hierarchies
from drgn_sockets.kernel.module import find_module
from drgn_sockets.program import forget
from drgn_sockets.records.fd import FdReader
from drgn_sockets.target import open_target
from drgn_sockets.views.procfs import FILES
from drgn_sockets.views.procfs.fdinfo import fdinfo

from .machine import Core, Done, Row, run_on, spawn
from .patient import UNMAPPED, Patient, client, file_at, member, sock_at, sparse_copy, tables, word


def fd_key(row: Row) -> tuple[Any, ...]:
    return row["pid"], row["tid"], row["fd"], row["name"], row["kind"]


FDS = ("fds", "--output", "pid,tid,fd,name,kind,detail,ino")
SS = ("ss", "-a", "--output", "netid,state,local,peer,ino,sk,error,holders,recv_q,send_q,path")


def whole(patient: Patient, argv: tuple[str, ...]) -> list[Row]:
    """What a command says of the sound core."""
    return patient.core.rows(*argv)


def others_stay(patient: Patient, argv: tuple[str, ...], allowed: int) -> tuple[Done, list[Row]]:
    """Run a command on the damaged core: at most *allowed* rows differ from those before."""
    done, rows = patient.rows(*argv)
    assert "Traceback" not in done.err
    before = {json.dumps(row, sort_keys=True) for row in whole(patient, argv)}
    after = {json.dumps(row, sort_keys=True) for row in rows}
    lost = before - after
    assert len(lost) <= allowed, (len(lost), sorted(lost)[:3], done.err[:500])
    return done, rows


@pytest.mark.parametrize(
    "value",
    [UNMAPPED, 1, 8, 0x1234_5678_9ABC_DEF0, (1 << 64) - 1, (1 << 64) - 8],
    ids=lambda v: f"{v:#x}",
)
def test_pointer_in_a_file_table(patient: Patient, value: int) -> None:
    pid, fd = client(patient)
    table = find_task(patient.prog, pid).files.fdt.fd
    with patient.damaged((table.value_() + 8 * fd, word(value))):
        done, rows = others_stay(patient, FDS, 1)
        assert done.status == 1
        bad = [row for row in rows if (row["pid"], row["fd"]) == (pid, fd)]
        assert len(bad) == 1 and bad[0]["name"] is None and "unreadable" in bad[0]["detail"]
        done, _ = others_stay(patient, SS, 1)
        assert done.status == 1
        assert f"pid {pid} fd {fd}" in done.err
        done = patient.run("peer", f"{pid}:{fd}")
        assert (done.status, done.out) == (2, ""), done.err
        assert re.search("its struct file at .* cannot be read", done.err.splitlines()[-1])


@pytest.mark.parametrize(
    ("path", "loses"),
    [("f_path.dentry", 1), ("f_inode", 1), ("f_path.mnt", 1)],
)
def test_members_of_a_file(patient: Patient, path: str, loses: int) -> None:
    process = patient.core.accounts["fd_zoo"]["processes"][0]
    entry = next(
        e for e in process["fds"] if e["name"] == "/tmp/drgn-sockets/fd_zoo/regular" and e["pos"]
    )
    file = file_at(patient, process["pid"], entry["fd"])
    for value in (UNMAPPED, 0, 1, (1 << 64) - 1):
        with patient.damaged((member(file, path), word(value))):
            done, rows = others_stay(patient, FDS, loses)
            assert done.status == 1
            bad = [r for r in rows if (r["pid"], r["fd"]) == (process["pid"], entry["fd"])]
            assert "unreadable" in bad[0]["detail"]


#: Words that are overwritten of what is small; beyond are others' structures.
WORDS = {"eventfd": 6, "signalfd": 1}
KINDS = ("eventfd", "eventpoll", "timerfd", "signalfd", "inotify", "fanotify", "userfaultfd")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["unmapped", "loop", "ones", "zeros"])
def test_what_a_kind_of_file_is_made_of(patient: Patient, kind: str, what: str) -> None:
    """It is all overwritten: one row is damaged, and its lines of fdinfo are one error."""
    process = patient.core.accounts["fd_zoo"]["processes"][0]
    pid, fd = process["pid"], next(e["fd"] for e in process["fds"] if e["kind"] == kind)
    private = file_at(patient, pid, fd).private_data.value_()
    fill = {"unmapped": UNMAPPED, "loop": private, "ones": (1 << 64) - 1, "zeros": 0}[what]
    with patient.damaged((private, word(fill) * WORDS.get(kind, 16))):
        argv = ("fds", str(pid), "--output", "pid,tid,fd,name,kind,detail,eventpoll.targets")
        _, rows = others_stay(patient, argv, 1)
        [row] = [row for row in rows if row["fd"] == fd]
        before = [r["detail"] for r in whole(patient, argv) if r["fd"] == fd]
        # Of marks the other end of the list may still be there.
        is_list = kind in ("inotify", "fanotify")
        assert [row["detail"]] != before or what in ("zeros", "ones") or is_list
        [record] = [r for r in FdReader(patient.prog).read(tables(patient, pid)) if r.fd == fd]
        with contextlib.suppress(FaultError):
            b"".join(fdinfo(record))


@pytest.mark.parametrize("value", [UNMAPPED, 0, 1, (1 << 64) - 1], ids=lambda v: f"{v:#x}")
def test_socket_of_a_file(patient: Patient, value: int) -> None:
    pid, fd = client(patient)
    file = file_at(patient, pid, fd)
    with patient.damaged((member(file, "private_data"), word(value))):
        done, _ = others_stay(patient, FDS, 1)
        assert done.status == 1
        others_stay(patient, SS, 1)
        done = patient.run("peer", f"{pid}:{fd}")
        assert (done.status, done.out) == (2, "")
        assert "is not a socket" in done.err or "its struct socket at" in done.err


@pytest.mark.parametrize("value", [UNMAPPED, 0, 1, (1 << 64) - 1], ids=lambda v: f"{v:#x}")
@pytest.mark.parametrize("path", ["sk", "file", "ops"])
def test_members_of_a_struct_socket(patient: Patient, path: str, value: int) -> None:
    pid, fd = client(patient)
    socket = cast("struct socket *", file_at(patient, pid, fd).private_data)
    with patient.damaged((member(socket, path), word(value))):
        others_stay(patient, FDS, 1)
        # The row of the socket, and that it is not found by its holder.
        others_stay(patient, SS, 1)


@pytest.mark.parametrize("max_fds", [0xFFFF_FFFF, 1 << 31, (1 << 31) - 1, 1 << 24])
def test_absurd_size_of_a_file_table(patient: Patient, max_fds: int) -> None:
    pid, _ = client(patient)
    fdt = find_task(patient.prog, pid).files.fdt
    with patient.damaged((member(fdt, "max_fds"), struct.pack("<I", max_fds))):
        # Nor is an fd made of what is behind the table.
        done, rows = others_stay(patient, FDS, 0)
        assert done.status == 1
        assert [row["fd"] for row in rows if row["pid"] == pid][-1] is None, "not told"
        assert len(rows) == len(whole(patient, FDS)) + 1
        done = patient.run("ss", "-ta")
        assert done.status == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [("open_fds", -(1 << 28)), ("close_on_exec", 1 << 28), ("open_fds", -8), ("max_fds", 0)],
    ids=str,
)
def test_members_of_a_file_table_that_disagree(patient: Patient, path: str, value: int) -> None:
    """Of 2^31 slots, say; the other members tell how many there are, and nothing is lost."""
    process, _ = next(patient.core.fds("threads", fd=1023))
    fdt = find_task(patient.prog, process["pid"]).files.fdt
    where = member(fdt, path)
    was = fdt.member_(path).value_()
    bad = struct.pack("<I", value) if path == "max_fds" else word(was + value)
    with patient.damaged((where, bad)):
        done, rows = others_stay(patient, FDS, 0)
        assert done.status == 1 and "struct fdtable" in done.err and path in done.err
        assert any(row["pid"] == process["pid"] and row["fd"] is None for row in rows)
        done, _ = others_stay(patient, SS, 0)
        assert done.status == 1 and path in done.err


def test_a_file_table_that_is_not_aligned(patient: Patient) -> None:
    pid, _ = client(patient)
    files = find_task(patient.prog, pid).files
    own = sum(1 for row in whole(patient, FDS) if row["pid"] == pid)
    with patient.damaged((member(files, "fdt"), word(files.fdt.value_() + 1))):
        done, rows = others_stay(patient, FDS, own)
        assert done.status == 1 and "it is not aligned" in done.err
        assert [row["fd"] for row in rows if row["pid"] == pid] == [None]


def test_an_array_of_files_that_is_another(patient: Patient) -> None:
    """Zeros, say: the bitmap tells that there are fds."""
    pid, _ = client(patient)
    fdt = find_task(patient.prog, pid).files.fdt
    own = sum(1 for row in whole(patient, FDS) if row["pid"] == pid)
    array = fdt.fd.value_()
    with patient.damaged((array, bytes(8 * fdt.max_fds.value_()))):
        done, _ = others_stay(patient, FDS, own)
        assert done.status == 1
        assert f"{own} of the fds that are in open_fds have no file" in done.err


@pytest.mark.parametrize("value", [UNMAPPED, 1, (1 << 64) - 1], ids=lambda v: f"{v:#x}")
@pytest.mark.parametrize("what", ["files", "files.fdt", "files.fdt.fd", "files.fdt.close_on_exec"])
def test_pointers_to_a_file_table(patient: Patient, what: str, value: int) -> None:
    pid, _ = client(patient)
    obj = find_task(patient.prog, pid)
    *way, last = what.split(".")
    for name in way:
        obj = obj.member_(name).read_()
    own = sum(1 for row in whole(patient, FDS) if row["pid"] == pid)
    with patient.damaged((member(obj, last), word(value))):
        done, rows = others_stay(patient, FDS, own)
        if last != "close_on_exec":
            assert done.status == 1
            # QEMU's cores have the first of physical memory at address 0 as well, and so what
            # can pass for an array at address 1.
            assert value == 1 or [row["fd"] for row in rows if row["pid"] == pid] == [None]


def chain(patient: Patient) -> tuple[Object, int]:
    """A connected socket, and where its link to the next of its bucket is."""
    pid, fd = client(patient)
    sk = sock_at(patient, pid, fd, "sock")
    return sk, member(sk, "__sk_common.skc_nulls_node.next")


def test_chain_that_loops(patient: Patient) -> None:
    sk, link = chain(patient)
    with patient.damaged((link, word(link))):
        _, rows = others_stay(patient, SS, 0)
        assert sum(1 for row in rows if row["sk"] == f"{sk.value_():#x}") == 1


@pytest.mark.parametrize("value", [UNMAPPED, 0, 2, (1 << 64) - 2], ids=lambda v: f"{v:#x}")
def test_chain_that_leads_nowhere(patient: Patient, value: int) -> None:
    _, link = chain(patient)
    with patient.damaged((link, word(value))):
        done, rows = others_stay(patient, SS, 0)
        if value:
            assert done.status == 1
            assert any(row["error"] for row in rows)


def test_chain_that_leads_to_something_else(patient: Patient) -> None:
    _, link = chain(patient)
    task = find_task(patient.prog, client(patient)[0])
    with patient.damaged((link, word(task.value_()))):
        done, rows = others_stay(patient, SS, 0)
        assert done.status == 1
        assert sum(1 for row in rows if row["error"]) == 1


def test_bucket_that_leads_nowhere(patient: Patient) -> None:
    """The head of a bucket of each hash table."""
    prog = patient.prog
    try:
        hashinfo = prog["init_net"].ipv4.tcp_death_row.hashinfo.read_()
    except AttributeError:
        hashinfo = prog["tcp_hashinfo"].address_of_()
    head = hashinfo.ehash[0].chain.first.address_of_().value_()
    for value in (UNMAPPED, 2, (1 << 64) - 2):
        with patient.damaged((head, word(value))):
            done, _ = others_stay(patient, SS, 2)
            assert done.status == 1


def test_hash_table_that_is_not_there(patient: Patient) -> None:
    prog = patient.prog
    try:
        hashinfo = prog["init_net"].ipv4.tcp_death_row.hashinfo.read_()
    except AttributeError:
        hashinfo = prog["tcp_hashinfo"].address_of_()
    tcp = sum(1 for row in whole(patient, SS) if row["netid"] == "tcp")
    with patient.damaged((member(hashinfo, "ehash"), word(UNMAPPED))):
        done, rows = others_stay(patient, SS, tcp)
        # Sockets that an fd holds are found through it.
        assert any(row["netid"] == "tcp" and row["state"] == "ESTAB" for row in rows)
        assert done.status == 1, "nothing tells that a table cannot be read"


def named_unix(patient: Patient) -> Object:
    end = patient.core.accounts["unix_fork"]["connections"][0]["server"]
    return sock_at(patient, end["pid"], end["fd"], "unix_sock")


def test_name_of_a_unix_socket(patient: Patient) -> None:
    usk = named_unix(patient)
    shares = sum(
        1 for row in whole(patient, SS) if "unix_fork/test.sock" in f"{row['local']}{row['peer']}"
    )
    assert shares >= 3
    for length in (0x7FFF_FFFF, -1, 0, 1, 2, 1 << 20):
        with patient.damaged((member(usk.addr, "len"), struct.pack("<i", length))):
            others_stay(patient, SS, shares)
    for value in (UNMAPPED, 1, (1 << 64) - 1):
        with patient.damaged((member(usk, "addr"), word(value))):
            others_stay(patient, SS, 2)
            pid, fd = (patient.core.accounts["unix_fork"]["connections"][0]["server"][k]
                       for k in ("pid", "fd"))  # fmt: skip
            assert patient.run("peer", f"{pid}:{fd}").status in (0, 1)


def test_pointers_of_a_unix_socket(patient: Patient) -> None:
    end = patient.core.accounts["unix_fork"]["connections"][0]["client"]
    usk = sock_at(patient, end["pid"], end["fd"], "unix_sock")
    for path in ("peer", "path.dentry", "path.mnt", "sk.sk_socket"):
        for value in (UNMAPPED, 1, (1 << 64) - 1):
            with patient.damaged((member(usk, path), word(value))):
                others_stay(patient, SS, 2)
                done = patient.run("peer", f"{end['pid']}:{end['fd']}", "--json")
                assert done.status in (0, 1, 2)
                if path == "peer":
                    # One end is there, of the other that it is not.
                    assert done.status == 1, done
                    assert len(done.out.splitlines()) == 2
                for line in done.out.splitlines():
                    json.loads(line)


def test_lost_name_of_a_unix_socket(patient: Patient) -> None:
    """It is not one without a name: that it is lost is seen in its row, and by the status."""
    end = patient.core.accounts["unix_fork"]["connections"][0]["listener"]
    usk = sock_at(patient, end["pid"], end["fd"], "unix_sock")
    for value in (UNMAPPED, 1, (1 << 64) - 1):
        with patient.damaged((member(usk, "addr"), word(value))):
            argv = ("ss", "-xl", "--output", "sk,path,error")
            done, rows = others_stay(patient, argv, 1)
            assert done.status == 1
            (row,) = [row for row in rows if row["error"] is not None]
            assert row["sk"] == f"{usk.value_():#x}"
            assert row["path"] is None
            assert re.match(r"struct unix_address at 0x[0-9a-f]+ cannot be read", row["error"])
            for words in (("fds", str(end["pid"])), ("ss", "-xl", "src", "unix:nobody")):
                done = patient.run(*words)
                assert (done.status, "struct unix_address at" in done.err) == (1, True), words


def test_receive_queue_that_loops(patient: Patient) -> None:
    """Its length is damaged as well, or the walk would end by that."""
    # Newer kernels count the bytes of SOCK_STREAM.
    (process, entry), *_ = (
        pair
        for pair in patient.core.fds("unix_zoo", family="AF_UNIX", type="SOCK_SEQPACKET")
        if pair[1].get("inq")
    )
    sk = sock_at(patient, process["pid"], entry["fd"], "sock")
    (row,) = (r for r in patient.core.rows("ss", "-xa") if r["ino"] == entry["inode"])
    assert row["recv_q"] == entry["inq"]
    first = sk.sk_receive_queue.next
    changes = [
        (first.value_(), word(first.value_())),
        (member(sk, "sk_receive_queue.qlen"), b"\xff\xff\xff\xff"),
    ]
    with patient.damaged(*changes):
        _, rows = others_stay(patient, SS, 1)
        # Not counted round and round until the length is reached.
        assert [r["recv_q"] for r in rows if r["sk"] == row["sk"]] == [None]
    for value in (UNMAPPED, 0, 1):
        with patient.damaged((first.value_(), word(value)), changes[1]):
            others_stay(patient, SS, 1)
        with patient.damaged((member(sk, "sk_receive_queue.next"), word(value))):
            others_stay(patient, SS, 1)


def dentry_of(patient: Patient, name: str) -> tuple[int, int, Object]:
    process, entry = next(
        (p, e)
        for p in patient.core.accounts["fd_zoo"]["processes"]
        for e in p["fds"]
        if e["name"] == name and e["kind"] == "file"
    )
    pid, fd = process["pid"], entry["fd"]
    return pid, fd, file_at(patient, pid, fd).f_path.dentry.read_()


def test_directories_that_form_a_loop(patient: Patient) -> None:
    pid, fd, dentry = dentry_of(patient, "/tmp/drgn-sockets/fd_zoo/regular")
    parent = dentry.d_parent.read_()
    grandparent = parent.d_parent.read_()
    below = sum(1 for r in whole(patient, FDS) if "/drgn-sockets" in (r["name"] or ""))
    with patient.damaged((member(grandparent, "d_parent"), word(parent.value_()))):
        done, rows = others_stay(patient, FDS, below)
        assert done.status == 1
        bad = next(r for r in rows if (r["pid"], r["fd"]) == (pid, fd))
        assert "loop" in bad["detail"]
    for value in (UNMAPPED, 0, 1):
        with patient.damaged((member(dentry, "d_parent"), word(value))):
            same = sum(1 for r in whole(patient, FDS)
                       if r["name"] == "/tmp/drgn-sockets/fd_zoo/regular")  # fmt: skip
            done, _ = others_stay(patient, FDS, same)
            assert done.status == 1


def test_length_of_a_name(patient: Patient) -> None:
    name = "/tmp/drgn-sockets/fd_zoo/regular"
    _, _, dentry = dentry_of(patient, name)
    same = sum(1 for r in whole(patient, FDS) if r["name"] == name)
    for length in (0xFFFF_FFFF, 1 << 20, 4097, 0):
        changes = [(member(dentry, "d_name.len"), struct.pack("<I", length))]
        with patient.damaged(*changes):
            others_stay(patient, FDS, same)
        changes.append((member(dentry, "d_name.name"), word(UNMAPPED)))
        with patient.damaged(*changes):
            others_stay(patient, FDS, same)


def test_list_of_pids_that_is_broken(patient: Patient) -> None:
    """Then tasks are found by their list."""
    prog = patient.prog
    root = prog["init_pid_ns"].idr.idr_rt.xa_head.address_of_().value_()
    for value in (UNMAPPED | 2, 0x1234_5678_9ABC_DEF2):
        with patient.damaged((root, word(value))):
            others_stay(patient, FDS, 0)
            others_stay(patient, SS, 0)


def test_list_of_tasks_that_is_broken_as_well(patient: Patient) -> None:
    prog = patient.prog
    pid, _ = client(patient)
    root = prog["init_pid_ns"].idr.idr_rt.xa_head.address_of_().value_()
    link = member(find_task(prog, pid), "tasks.next")
    for value in (UNMAPPED, link, 0, 1):
        with patient.damaged((root, word(UNMAPPED | 2)), (link, word(value))):
            # Walked from both ends, nothing is lost.
            others_stay(patient, FDS, 0)


def test_task_that_cannot_be_read(patient: Patient) -> None:
    """A slot of the radix tree of pids that leads nowhere."""
    prog = patient.prog
    pid, _ = client(patient)
    struct_pid = find_task(prog, pid).thread_pid
    own = sum(1 for row in whole(patient, FDS) if row["pid"] == pid)
    first = struct_pid.tasks[prog["PIDTYPE_TGID"]].first.address_of_().value_()
    first_pid = struct_pid.tasks[prog["PIDTYPE_PID"]].first.address_of_().value_()
    for value in (UNMAPPED, 0, 1):
        for address in (first, first_pid):
            with patient.damaged((address, word(value))):
                others_stay(patient, FDS, own)
                others_stay(patient, SS, own)


def test_list_of_network_namespaces(patient: Patient) -> None:
    prog = patient.prog
    head = prog["net_namespace_list"].address_of_()
    inits = whole(patient, ("ss", "-a"))
    elsewhere = sum(1 for r in inits if r["netns"] != patient.core.home_netns)
    for value in (UNMAPPED, head.value_(), 0, 1):
        with patient.damaged((head.next.value_(), word(value))):
            done, _ = patient.rows("ss", "-a", "--output", "all")
            rows = {r["sk"] for r in map(json.loads, done.out.splitlines())}
            assert len({r["sk"] for r in inits} - rows) <= elsewhere


def test_two_network_namespaces_of_one_inode(patient: Patient, tmp_path: Path) -> None:
    """``procfs -o`` writes what there is room for, and tells what it leaves out."""
    nets = list(for_each_net(patient.prog))
    inodes = [net.ns.inum.value_() for net in nets]
    number = struct.pack("<I", inodes[0])
    with patient.damaged((member(nets[1], "ns.inum"), number)):
        done = patient.run("procfs", "-o", str(tmp_path / "tree"))
    assert done.status == 1
    assert f"net/ of struct net at {nets[1].value_():#x} is left out" in done.err
    written = {int(path.name) for path in (tmp_path / "tree" / "netns").iterdir()}
    assert written == {*inodes} - {inodes[1]}
    assert (tmp_path / "tree" / "uptime").exists()


def test_truncated_core(sample: Core, tmp_path: Path) -> None:
    """What a full disk leaves of a dump."""
    path = tmp_path / "core"
    sparse_copy(sample.path, path)
    size = path.stat().st_size
    try:
        for part in (0.97, 0.5, 0.1, 0.001):
            os.truncate(path, int(size * part))
            for command in (["fds", "--json"], ["ss", "-a", "--json"], ["peer", "1:0"]):
                done = spawn("-c", str(path), *sample.symbols, *command)
                err = done.stderr.decode()
                assert b"Traceback" not in done.stderr, err
                assert done.returncode in (1, 2)
                # Behind the memory, QEMU writes names of sections.
                assert f"cut short: {int(size * part):,} of " in err
                assert all(line.startswith("drgn-sockets: ") for line in err.splitlines()), err
                assert done.returncode != 2 or err
                for line in done.stdout.decode().splitlines():
                    json.loads(line)
    finally:
        path.unlink()


@pytest.mark.parametrize("part", [0.97, 0.5, 0.01])
def test_truncated_kdump(sample: Core, tmp_path: Path, part: float) -> None:
    path = tmp_path / "core"
    data = sample.path.with_name("core.kdump").read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    for command in (["fds", "--json"], ["ss", "-a", "--json"]):
        done = spawn("-c", str(path), *sample.symbols, *command)
        err = done.stderr.decode()
        assert b"Traceback" not in done.stderr, err
        assert done.returncode == (1 if part > 0.9 else 2)
        assert f"cut short: {path.stat().st_size:,} bytes" in err
        assert all(line.startswith("drgn-sockets: ") for line in err.splitlines()), err
        for line in done.stdout.decode().splitlines():
            json.loads(line)


def procfs(name: str) -> tuple[str, ...]:
    return ("procfs", f"net/{name}", "--output", "line")


def unix_chain(patient: Patient) -> int:
    """Where a unix socket's link to the next of its bucket is: of one that is not the last."""
    lines = [row["line"] for row in whole(patient, procfs("unix"))][1:]
    for line in lines:
        if re.match(r"f[0-9a-f]{15}: ", line):
            sk = Object(patient.prog, "struct sock *", int(line[:16], 16))
            if sk.__sk_common.skc_node.next:
                return member(sk, "__sk_common.skc_node.next")
    raise AssertionError("no bucket has two")


@pytest.mark.parametrize("value", [None, UNMAPPED, 2, (1 << 64) - 2], ids=str)
def test_procfs_of_a_chain_that_is_broken(patient: Patient, value: int | None) -> None:
    link = unix_chain(patient)
    count = len(whole(patient, procfs("unix")))
    # None: it leads back to itself.
    with patient.damaged((link, word(link if value is None else value))):
        done, rows = others_stay(patient, procfs("unix"), count // 3)
        # In the order of the whole file, and none twice.
        before = [row["line"] for row in whole(patient, procfs("unix"))]
        after = [row["line"] for row in rows]
        assert len(before) > len(after) > count * 2 // 3
        rest = iter(before)
        assert all(line in rest for line in after)
        if value is not None:
            assert done.status == 1 and "cannot be read" in done.err


def test_procfs_of_tables_that_are_not_there(patient: Patient) -> None:
    prog = patient.prog
    net = prog["init_net"].address_of_()
    with patient.damaged((member(net, "unx.table.buckets"), word(UNMAPPED))):
        done = patient.run("procfs", "net/unix", "net/udp")
        assert done.status == 1 and "cannot be read" in done.err
        assert done.out.startswith("Num       RefCount ")
        assert done.out.endswith(patient.core.run("procfs", "net/udp").out)
    protocols = prog["proto_list"].address_of_().value_()
    for name, place, damage, others in (
        ("sockstat", member(net, "core.prot_inuse"), word(UNMAPPED), "raw"),
        # In both directions.
        ("protocols", protocols, 2 * word(UNMAPPED), "icmp"),
    ):
        with patient.damaged((place, damage)):
            done = patient.run("procfs", f"net/{name}", f"net/{others}")
            assert done.status == 1 and f"net/{name} of network namespace " in done.err
            assert done.out.endswith(patient.core.run("procfs", f"net/{others}").out)
    assert patient.run("ss", "-s").status == 0
    with patient.damaged((member(net, "core.prot_inuse"), word(UNMAPPED))):
        done = patient.run("ss", "-s")
        assert (done.status, done.out) == (1, "") and "how many sockets" in done.err


def test_procfs_of_a_list_of_protocols_that_is_damaged_in_one_direction(patient: Patient) -> None:
    prog = patient.prog
    head = prog["proto_list"].address_of_()
    first, second = head.next.value_(), head.next.next.value_()
    whole = patient.core.run("procfs", "net/protocols")
    assert whole.out.count("\n") > 20
    for place, value in ((head.value_(), UNMAPPED), (second, UNMAPPED), (second, first)):
        with patient.damaged((place, word(value))):
            done = patient.run("procfs", "net/protocols")
            assert (done.status, done.out) == (0, whole.out)


def test_procfs_of_a_list_of_protocols_that_loops(patient: Patient) -> None:
    prog = patient.prog
    head = prog["proto_list"].address_of_()
    first, second = head.next.value_(), head.next.next.value_()
    with patient.damaged((second, word(first)), (head.value_() + 8, word(UNMAPPED))):
        done = patient.run("procfs", "net/protocols")
        assert done.status == 1 and "list loops" in done.err


def test_procfs_of_numbers_that_cannot_be(patient: Patient) -> None:
    prog = patient.prog
    cpus = prog["nr_cpu_ids"].address_of_().value_()
    before = patient.core.run("procfs", "net/sockstat").out
    with patient.damaged((cpus, b"\xff\xff\xff\xff")):
        done = patient.run("procfs", "net/sockstat")
        assert "Traceback" not in done.err
        assert done.status == 1 or done.out == before
    # Files of which nobody can tell whether they are there.
    directory = prog["init_net"].proc_net.subdir.rb_node.address_of_().value_()
    for value in (UNMAPPED, 0, 8, directory):
        with patient.damaged((directory, word(value))):
            assert patient.run("procfs", "net/sockstat").out == before
    tcp = prog["tcp_prot"].inuse_idx.address_of_().value_()
    with patient.damaged((tcp, b"\xff\xff\xff\x7f")):
        assert "TCP: inuse 0 orphan" in patient.run("procfs", "net/sockstat").out


def test_the_sound_core_is_sound(patient: Patient) -> None:
    """Or what is compared with it proves nothing; and the damage was mended."""
    for argv in (FDS, SS, *map(procfs, FILES)):
        if argv[0] == "procfs" and "udplite" in argv[1]:
            continue
        done, rows = patient.rows(*argv)
        assert done.status == 0
        assert rows == whole(patient, argv)
    with pytest.raises(FaultError):
        patient.prog.read(UNMAPPED, 8)


def test_distilled_is_as_broken(patient: Patient, tmp_path: Path) -> None:
    """What is distilled of a damaged core says the same as that, and no walk is endless."""
    pid, fd = client(patient)
    table = find_task(patient.prog, pid).files.fdt.fd
    sk = sock_at(patient, pid, fd, "sock")
    nets = patient.prog["net_namespace_list"]
    second = nets.next.next.value_()
    with patient.damaged(
        (table.value_() + 8 * fd, word(UNMAPPED)),
        (member(sk, "sk_socket"), word(UNMAPPED)),
        # The list of namespaces goes round between the first two.
        (second, word(nets.next.value_())),
    ):
        core = tmp_path / "core"
        target = ("-c", str(patient.path), *patient.core.symbols)
        done = spawn(*target, "distill", "-o", str(core))
        assert done.returncode in (0, 1), done.stderr
        assert b"Traceback" not in done.stderr
        distilled = open_target(make_parser().parse_args(["-c", str(core), "ss"]))
        for argv in (FDS, SS, ("ss", "-tuwx", "-a"), ("peer", f"{pid}:{fd}")):
            assert run_on(distilled, *argv) == patient.run(*argv)
    # Cut short: what there is, or one line.
    short = tmp_path / "short"
    with patient.path.open("rb") as file, short.open("wb") as copy:
        copy.write(file.read(patient.path.stat().st_size // 8))
    done = spawn("-c", str(short), *patient.core.symbols, "distill", "-o", str(core))
    assert done.returncode in (1, 2), done.stderr
    assert b"Traceback" not in done.stderr
    short.unlink()


FAMILIES = ("ss", "-a", "--output", "netid,state,local,peer,ino,sk,recv_q,send_q,assoc,ext,info")
#: Members that lead on from a socket of a family, or from what belongs to it: what it is, C type,
#: the member, and how many rows may depend on it.
LEADING = (
    ("v_str", "struct vsock_sock", "bound_table.next", 0),
    ("v_str", "struct vsock_sock", "connected_table.next", 0),
    ("xdp", "struct xdp_sock", "sk.__sk_common.skc_node.next", 0),
    ("xdp", "struct xdp_sock", "dev", 1),
    ("xdp", "struct xdp_sock", "umem", 1),
    ("mptcp", "struct mptcp_sock", "conn_list.next", 1),
    ("mptcp", "struct mptcp_sock", "first", 1),
    ("sctp", "struct sctp_sock", "ep", 2),
    ("sctp", "struct sctp_sock", "inet.sk.__sk_common.skc_bind_node.next", 0),
    ("sctp association", "struct sctp_association", "asocs.next", 0),
    ("sctp association", "struct sctp_association", "peer.primary_path", 1),
    ("sctp association", "struct sctp_association", "peer.transport_addr_list.next", 1),
    ("sctp association", "struct sctp_association", "base.bind_addr.address_list.next", 1),
)


@pytest.mark.parametrize(("netid", "type_", "path", "loses"), LEADING, ids=lambda v: str(v))
def test_what_leads_on_from_a_socket(
    patient: Patient, netid: str, type_: str, path: str, loses: int
) -> None:
    """Held sockets stay, whatever the list or the structure behind them is like."""
    kind, _, association = netid.partition(" ")
    row = next(
        row
        for row in whole(patient, FAMILIES)
        if row["netid"] == kind and bool(row["assoc"]) == bool(association) and row["ino"]
    )
    address = int(row["assoc"] if association else row["sk"], 16)
    place = member(Object(patient.prog, f"{type_} *", address), path)
    # Nowhere, to itself, and into the middle of something.
    for value in (UNMAPPED, place, address + 64):
        with patient.damaged((place, word(value))):
            done, _ = others_stay(patient, (*FAMILIES, "-A", "sctp,mptcp,vsock,xdp"), loses)
            assert done.status in (0, 1)


def test_a_table_of_a_module_that_cannot_be_found(patient: Patient) -> None:
    """Its symbols are gone: what somebody holds is there, and a line says what is not."""
    module = find_module(patient.prog, "vsock")
    assert module is not None
    rows = [row for row in whole(patient, FAMILIES) if row["netid"].startswith("v_")]
    not_held = sum(not row["ino"] for row in rows)
    with patient.damaged((module.kallsyms, word(UNMAPPED))):
        done, _ = others_stay(patient, FAMILIES, not_held)
        assert done.status == 0
    assert "vsock sockets that are in no file table are not shown" in done.err


# What processes have mapped, and their directories.


def leaf_slot(prog: Program, mm: Object) -> tuple[int, int]:
    """Addresses of the first slots in the root of a maple tree and in a leaf."""
    node = mm.mm_mt.ma_root.value_()
    first = 0
    while True:
        leaf, arange = (node >> 3 & 0xF) == 1, (node >> 3 & 0xF) == 3
        slots = (node & ~0xFF) + offsetof(
            prog.type("struct maple_node"), "ma64.slot" if arange else "mr64.slot"
        )
        first = first or slots
        if leaf:
            while not prog.read_word(slots):
                slots += 8
            return first, slots
        node = prog.read_word(slots)


def whole_and(
    patient: Patient, pid: int, *changes: tuple[int, bytes]
) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows of a process before the damage, after it, and those that say what cannot be read."""
    before = patient.core.rows("fds", "--all")
    with patient.damaged(*changes):
        done, rows = patient.rows("fds", "--all", "--output", "all")
    assert done.status == 1
    assert [r for r in rows if r["pid"] != pid] == [r for r in before if r["pid"] != pid]
    rows = [r for r in rows if r["pid"] == pid]
    told = [r for r in rows if "cannot be read" in str(r["detail"]) or "memory" in str(r["detail"])]
    return [r for r in before if r["pid"] == pid], [r for r in rows if r not in told], told


@pytest.mark.parametrize("what", ["nowhere", "another's", "loop"])
def test_damaged_tree_of_mappings(patient: Patient, what: str) -> None:
    pid, _ = client(patient)
    prog = patient.prog
    mm = find_task(prog, pid).mm
    first, slot = leaf_slot(prog, mm)
    other = leaf_slot(prog, find_task(prog, 1).mm)[1]
    changes = {
        "nowhere": (slot, word(UNMAPPED)),
        "another's": (slot, word(prog.read_word(other))),
        # The root as its own first child.
        "loop": (first, word(mm.mm_mt.ma_root.value_() & ~2 | 4)),
    }
    before, rows, told = whole_and(patient, pid, changes[what])
    assert all(row in before for row in rows if row["fd"] not in ("mem",))
    assert {r["fd"] for r in before if r["fd"] != "mem"} == {r["fd"] for r in rows} - {"mem"}
    names = {r["name"] for r in before}
    assert {r["name"] for r in rows} <= names
    assert len(told) == 1
    assert ("two ways to it" if what == "loop" else "struct vm_area_struct at") in told[0]["detail"]
    assert what == "loop" or [r for r in rows if r["fd"] == "mem"]


@pytest.mark.parametrize("member_", ["mm", "fs", "real_cred", "signal"])
def test_damaged_task(patient: Patient, member_: str) -> None:
    pid, fd = client(patient)
    task = find_task(patient.prog, pid)
    change = (member(task, member_), word(UNMAPPED))
    if member_ in ("mm", "fs"):
        _, rows, told = whole_and(patient, pid, change)
        assert [r["fd"] for r in told] == ["mem" if member_ == "mm" else "cwd"]
        assert fd in [r["fd"] for r in rows]
        return
    with patient.damaged(change):
        done, rows = patient.rows("fds", "--output", "pid,fd,uid,user")
        # The row has a "?" there only for real_cred: of signal, --summary has.
        assert done.status == (1 if member_ == "real_cred" else 0)
        assert {r["uid"] for r in rows if r["pid"] == pid} == {
            None if member_ == "real_cred" else 0
        }
        summary = [r for r in patient.rows("fds", "--summary")[1] if r["pid"] == pid]
        assert [r["soft"] is None for r in summary] == [member_ == "signal"]


def task_of(patient: Patient, pid: int) -> Object:
    task = find_task(patient.prog, pid)
    assert task
    return task


@pytest.mark.parametrize("value", [UNMAPPED, 2], ids=str)
@pytest.mark.parametrize(
    ("pointer", "lost"),
    [
        ("signal", {"stat", "status"}),
        ("sighand", {"stat", "status"}),
        ("real_cred", {"status", "ns"}),
        ("mm", {"stat", "status", "cmdline", "exe"}),
        ("thread_pid", {"status", "ns"}),
        ("nsproxy", {"ns"}),
        ("fs", {"status", "cwd", "root"}),
        ("files", {"status", "fd"}),
        ("cgroups", {"cgroup"}),
        ("real_parent", {"stat", "status"}),
    ],
)
def test_files_of_a_process_that_is_broken(
    patient: Patient, tmp_path: Path, pointer: str, lost: set[str], value: int
) -> None:
    """What cannot be read is missing and told; all else is there."""
    pid, _ = client(patient)
    names = ("comm", "cmdline", "stat", "status", "cgroup", "cwd", "root", "exe", "ns", "fd")
    before = {name: patient.run("procfs", f"{pid}/{name}") for name in names}
    place = member(task_of(patient, pid), pointer)
    with patient.damaged((place, word(value))):
        after = {name: patient.run("procfs", f"{pid}/{name}") for name in names}
        for done in after.values():
            assert done.err.count("\n") <= 1 and "Traceback" not in done.err
        assert {name for name in names if after[name].status} == lost
        changed = {name for name in names if after[name] != before[name]}
        assert changed - lost <= {"stat", "status"}
        if value != UNMAPPED or pointer not in ("signal", "files"):
            # It takes some seconds.
            return
        tree = tmp_path / "tree"
        done = patient.run("procfs", "-o", str(tree))
        assert done.status == (1 if lost else 0), done.err
        assert all(f"{pid}/" in line for line in done.err.splitlines())
        for name in set(names) - lost - {"fd", "ns"}:
            assert os.path.lexists(tree / str(pid) / name), name
        for name in lost - {"fd", "ns"}:
            assert not os.path.lexists(tree / str(pid) / name), name
        assert (tree / "net/tcp").exists() and len(list(tree.glob("*/status"))) > 50


def test_a_list_of_hierarchies_that_loops(patient: Patient) -> None:
    pid, _ = client(patient)
    place = patient.prog["cgroup_roots"].next.value_()
    with patient.damaged((place, word(place))):
        forget(patient.prog, hierarchies)
        # The other direction of the list leads to all of them.
        done = patient.run("procfs", f"{pid}/cgroup")
        assert done.out.count("\n") == 2 and done.status == 0
    forget(patient.prog, hierarchies)
    assert patient.run("procfs", f"{pid}/cgroup").out.count("\n") == 2
