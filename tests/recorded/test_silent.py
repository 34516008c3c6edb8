# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Damage that made rows vanish, or a field change, and nothing said so.

Each is planted in a copy of a core. The command has to say what it could not read, with the name of
the structure or list, and to end with exit status 1.
"""

from __future__ import annotations

import pytest
from drgn import Object, cast, offsetof
from drgn.helpers.linux.pid import find_task

from drgn_sockets.kernel.module import find_module
from drgn_sockets.program import forget

from .machine import Done
from .patient import UNMAPPED, Patient, client, file_at, member, sock_at, word


def told(done: Done, *words: str) -> None:
    """It is said, and in the status too."""
    assert "Traceback" not in done.err
    assert done.status == 1, done.err
    for one in words:
        assert one in done.err, done.err


def rows_of(patient: Patient, name: str) -> tuple[Done, set[str]]:
    """The rows of a file of procfs."""
    done = patient.run("procfs", f"net/{name}")
    return done, {line.partition(": ")[2] for line in done.out.splitlines()[1:]}


def test_a_task_that_is_not_there(patient: Patient) -> None:
    """Its file table is not known, and so it is not known who holds its sockets."""
    pid, _ = client(patient)
    task = find_task(patient.prog, pid)
    link = task.thread_pid.tasks[0].first.address_of_().value_()
    with patient.damaged((link, word(UNMAPPED))):
        for argv in (("ss", "-tap"), ("ss", "-ta"), ("fds", "--summary"), ("peer", ":22")):
            done = patient.run(*argv)
            assert "struct task_struct" in done.err, argv
            assert done.status, argv


def test_two_tasks_with_one_number(patient: Patient) -> None:
    pid, _ = client(patient)
    other = next(p["pid"] for p, _ in patient.core.fds("fd_zoo"))
    task = find_task(patient.prog, pid)
    for value in (other, pid + 100_000):
        with patient.damaged((member(task, "pid"), value.to_bytes(4, "little"))):
            for argv in (("fds", "--json"), ("ss", "-ap")):
                told(patient.run(*argv), "struct task_struct", f"{task.value_():#x}")


def test_the_table_of_pids_is_empty(patient: Patient) -> None:
    root = patient.prog["init_pid_ns"].idr.idr_rt.xa_head.address_of_().value_()
    before = patient.rows("fds")[1]
    for value in (0, 2, 6):
        with patient.damaged((root, word(value))):
            done, rows = patient.rows("fds")
            assert [(r["pid"], r["fd"]) for r in rows] == [(r["pid"], r["fd"]) for r in before]
            told(done, "IDR of the initial PID namespace" if value != 6 else "")


def test_a_branch_of_the_table_of_pids(patient: Patient) -> None:
    """A slot of the tree is empty, or leads to another part of it."""
    root = patient.prog["init_pid_ns"].idr.idr_rt.xa_head.value_()
    node = Object(patient.prog, "struct xa_node *", root - 2)
    slots = [node.slots[i] for i in range(64) if node.slots[i].value_()]
    before = patient.rows("fds")[1]
    assert len(slots) > 2
    for value in (0, slots[0].value_(), root):
        with patient.damaged((slots[1].address_of_().value_(), word(value))):
            done, rows = patient.rows("fds")
            assert [(r["pid"], r["fd"]) for r in rows] == [(r["pid"], r["fd"]) for r in before]
            told(done, "struct xa_node")


@pytest.mark.parametrize("value", ["nowhere", "itself", "head"])
def test_a_list_of_network_namespaces_that_is_broken(patient: Patient, value: str) -> None:
    prog = patient.prog
    head = prog["net_namespace_list"].address_of_()
    first, last = head.next.value_(), head.prev.value_()
    values = {"nowhere": UNMAPPED, "itself": first, "head": head.value_()}
    # Both directions: each alone is made good by the other.
    changes = [(first, word(values[value]))]
    changes.append((last + 8, word(UNMAPPED + 64 if value != "head" else head.value_())))
    with patient.damaged(*changes):
        for argv in (("ss", "-a"), ("procfs", "net/tcp"), ("peer", ":22")):
            done = patient.run(*argv)
            assert done.status, argv
            assert "struct list_head" in done.err or "struct net" in done.err, argv


@pytest.mark.parametrize("name", ["tcp", "unix"])
def test_a_socket_of_no_network_namespace(patient: Patient, name: str) -> None:
    prog = patient.prog
    if name == "tcp":
        sk = sock_at(patient, *client(patient), "sock")
    else:
        pairs = [r for r in patient.rows("fds")[1] if (r["detail"] or "").startswith("u_str ESTAB")]
        sk = sock_at(patient, pairs[0]["pid"], pairs[0]["fd"], "sock")
    _, before = rows_of(patient, name)
    place = member(sk, "__sk_common.skc_net.net")
    other = prog["init_net"].list.next.value_() - offsetof(prog.type("struct net"), "list")
    values = [UNMAPPED, sk.value_(), *([other] if name == "unix" else [])]
    for value in values:
        with patient.damaged((place, word(value))):
            done, after = rows_of(patient, name)
            assert len(before - after) == 1
            told(done, f"{sk.value_():#x}")


@pytest.mark.parametrize("by", [8, 4096, -4096, 1 << 20])
def test_a_hash_table_that_is_elsewhere(patient: Patient, by: int) -> None:
    prog = patient.prog
    hashinfo = prog["init_net"].ipv4.tcp_death_row.hashinfo.read_()
    with patient.damaged((member(hashinfo, "ehash"), word(hashinfo.ehash.value_() + by))):
        told(patient.run("procfs", "net/tcp"))
        told(patient.run("ss", "-ta"))


@pytest.mark.parametrize("mask", [0, 1, 255])
def test_a_hash_table_that_is_short(patient: Patient, mask: int) -> None:
    """The counts of sockets tell that some are missing."""
    prog = patient.prog
    hashinfo = prog["init_net"].ipv4.tcp_death_row.hashinfo.read_()
    with patient.damaged((member(hashinfo, "ehash_mask"), mask.to_bytes(4, "little"))):
        told(patient.run("procfs", "net/tcp"), "TCP")
        told(patient.run("ss", "-ta"), "TCP")


def test_a_list_of_modules_that_is_broken(patient: Patient) -> None:
    prog = patient.prog
    head = prog["modules"].address_of_()
    first, last = head.next.value_(), head.prev.value_()
    with patient.damaged((first, word(UNMAPPED)), (last + 8, word(UNMAPPED + 64))):
        forget(prog, find_module)
        for family in ("--vsock", "--sctp"):
            told(patient.run("ss", family, "-a"), "struct list_head")
    forget(prog, find_module)


def test_operations_of_sockets(patient: Patient) -> None:
    ops = patient.prog.symbol("inet_stream_ops").address
    file = file_at(patient, *client(patient))
    socket = cast("struct socket *", file.private_data)
    assert socket.ops.value_() == ops
    with patient.damaged((member(socket, "ops"), word(UNMAPPED))):
        told(patient.run("ss", "-ta"), "struct proto_ops")


def test_an_inode_that_is_not_there(patient: Patient) -> None:
    """The row of procfs has no inode: 0 would be that of a socket without one."""
    for name, sk in (("tcp", sock_at(patient, *client(patient), "sock")),):
        with patient.damaged((member(sk, "sk_socket"), word(UNMAPPED))):
            done, _ = rows_of(patient, name)
            told(done, "struct socket")
            sk_text = f"{sk.value_():016x}"
            [row] = [line.split() for line in done.out.splitlines() if sk_text in line]
            assert row[9] == "?"


def test_lsof_says_what_cannot_be_read(patient: Patient) -> None:
    pid, fd = client(patient)
    socket = cast("struct socket *", file_at(patient, pid, fd).private_data)
    with patient.damaged((member(socket, "sk"), word(UNMAPPED))):
        done = patient.run("fds", "--lsof", str(pid))
        told(done, "struct sock")
        [line] = [line for line in done.out.splitlines() if f" {fd}u " in line]
        assert "protocol: TCP" not in line and "cannot be read" in line, line
        # Many rows, one of which cannot be compared with the others.
        told(patient.run("fds", "--lsof"), "struct sock")


def test_a_dentry_without_operations(patient: Patient) -> None:
    """The name of a pipe is made by them: what is left is no file called '/'."""
    pipes = [r for r in patient.rows("fds")[1] if r["kind"] == "pipe"]
    row = pipes[0]
    file = file_at(patient, row["pid"], row["fd"])
    dentry = file.f_path.dentry.read_()
    for value in (UNMAPPED,):
        with patient.damaged((member(dentry, "d_op"), word(value))):
            done, rows = patient.rows("fds", str(row["pid"]))
            [after] = [r for r in rows if r["fd"] == row["fd"]]
            told(done, "struct dentry_operations")
            assert after["name"] is None


def test_check_counts_what_it_could_not_compare(patient: Patient) -> None:
    pid, fd = client(patient)
    task = find_task(patient.prog, pid)
    file = task.files.fdt.fd[fd].address_of_().value_()
    with patient.damaged((file, word(UNMAPPED))):
        done = patient.run("check", "--procfs", str(patient.core.oracle))
        told(done)
        assert "not compared: what could not be read, 1 times" in done.out
        told(patient.run("fds", str(pid)))


def test_check_without_network_namespaces(patient: Patient) -> None:
    prog = patient.prog
    head = prog["net_namespace_list"].address_of_()
    with patient.damaged(
        (head.value_(), word(UNMAPPED)),
        (head.value_() + 8, word(UNMAPPED)),
    ):
        for argv in (("check", "--procfs"), ("check", "--diag")):
            done = patient.run(*argv, str(patient.core.oracle))
            told(done, "struct list_head")
