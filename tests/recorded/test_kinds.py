# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns of each kind of file, against what the workloads, lsfd and procfs say of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from vm import rootfs

from .machine import Core, Row

Entry = dict[str, Any]


def rows_by_fd(core: Core) -> dict[tuple[int, int], Row]:
    return {(row["pid"], row["fd"]): row for row in core.rows("fds") if row["tid"] is None}


def entries(core: Core, workload: str, kind: str) -> Iterator[tuple[Entry, Row]]:
    """What a workload says of each fd of a kind, and our row of it."""
    rows = rows_by_fd(core)
    for process in core.accounts[workload]["processes"]:
        for entry in process["fds"]:
            if entry["kind"] == kind:
                yield {**entry, "pid": process["pid"]}, rows[process["pid"], entry["fd"]]


def zoo(core: Core, kind: str) -> list[tuple[Entry, Row]]:
    found = list(entries(core, "fd_zoo", kind))
    assert found, kind
    return found


def kinds(core: Core, kind: str, what: str | None = None) -> list[tuple[Entry, Row]]:
    """The same of ``fd_kinds``; none where the kernel has none."""
    if "fd_kinds" not in core.accounts:
        pytest.skip("recorded before there was such a workload")
    found = [pair for pair in entries(core, "fd_kinds", kind) if pair[0].get("detail")]
    skipped = [row["what"] for row in core.accounts["fd_kinds"]["skipped"]]
    if not found:
        assert any((what or kind) in text for text in skipped), (kind, skipped)
        pytest.skip(f"this kernel has no {what or kind}")
    return found


def saved_fdinfo(core: Core, entry: Entry) -> dict[str, str]:
    text = (core.oracle / str(entry["pid"]) / "fdinfo" / str(entry["fd"])).read_text()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


# Those of any kind.


def test_file_operations_have_a_name(elf: Core) -> None:
    """Those of modules too."""
    rows = elf.rows("fds")
    assert all(row["fops"] for row in rows)
    by_name = {row["name"]: row["fops"] for row in rows if row["access"] != "p"}
    assert by_name["/dev/null"] == "null_fops"
    assert by_name["/dev/net/tun"] == "tun_fops"
    assert by_name["/dev/fuse"] == "fuse_dev_operations"
    assert by_name["/dev/loop-control"] == "loop_ctl_fops"
    assert {row["fops"] for row in rows if row["kind"] == "sock"} == {"socket_file_ops"}
    assert not any(row["fops"].startswith("0x") for row in rows)


def test_drivers_as_lsfd_says(elf: Core) -> None:
    majors: dict[int, set[str]] = {}
    section = ""
    for line in (elf.oracle / "devices").read_text().splitlines():
        if line.endswith(":"):
            section = line
        elif line and section.startswith("Character"):
            number, name = line.split()
            majors.setdefault(int(number), set()).add(name)
    rows = rows_by_fd(elf)
    compared = 0
    for entry in json.loads(elf.tool("lsfd-json"), strict=False)["lsfd"]:
        if not entry["assoc"].isdecimal() or entry["type"] not in ("CHR", "BLK"):
            continue
        row = rows.get((entry["pid"], int(entry["assoc"])))
        if row is None or entry["pid"] in elf.manifest["excluded"]:
            continue
        assert row["miscdev"] == entry["miscdev"], entry
        assert row["blkdrv"] == entry["blkdrv"], entry
        if row["chrdrv"] != entry["chrdrv"]:
            # Of those of one major number lsfd takes the first, we the one with the minor number.
            major = int(entry["rdev"].partition(":")[0])
            assert len(majors[major]) > 1 and row["chrdrv"] in majors[major], entry
        compared += 1
    assert compared > 60


# What fd_zoo has.


def test_pipes(elf: Core) -> None:
    found = zoo(elf, "pipe")
    for entry, row in found:
        assert row["pipe.unread"] == entry.get("inq", row["pipe.unread"])
        assert row["pipe.capacity"] == 65536
        assert (row["pipe.readers"], row["pipe.writers"]) == (1, 1)
    assert sum(row["pipe.unread"] for _, row in found) == 12
    assert {row["pipe.writers"] for _, row in zoo(elf, "fifo")} == {2}


def test_namespaces(elf: Core) -> None:
    found = zoo(elf, "ns")
    [users] = [entry["inode"] for entry, _ in found if entry["name"].startswith("user:")]
    for entry, row in found:
        assert row["ns.name"] == entry["name"]
        assert row["ns.type"] == entry["name"].partition(":")[0]
        # The first of users belongs to none.
        assert row["ns.owner"] == (None if row["ns.type"] == "user" else users)


def test_memfds(elf: Core) -> None:
    for entry, row in zoo(elf, "memfd"):
        assert entry["name"] == f"/memfd:{os.fsdecode(unescaped(row['memfd.name']))} (deleted)"
        assert row["memfd.size"] == 100
        # Without MFD_ALLOW_SEALING there may be no more than there is.
        sealed = "seal" if entry["cloexec"] else None
        assert row["memfd.seals"] == sealed


def unescaped(text: str) -> bytes:
    from drgn_sockets.text import unescape

    return unescape(text)


def test_bpf(elf: Core) -> None:
    [(entry, row)] = zoo(elf, "bpf-map")
    assert row["bpf_map.type"] == "array"
    for field in ("key_size", "value_size", "max_entries"):
        assert row[f"bpf_map.{field}"] == entry["detail"][field]
    assert row["bpf_map.type.raw"] == entry["detail"]["map_type"]
    assert row["detail"] == f"id={row['bpf_map.id']} type=array"
    [(entry, row)] = zoo(elf, "bpf-prog")
    assert (row["bpf_prog.type"], row["bpf_prog.insns"]) == ("socket_filter", 2)
    tag = saved_fdinfo(elf, entry)["prog_tag"].strip()
    assert row["detail"] == f"id={row['bpf_prog.id']} type=socket_filter tag={tag}"


def test_perf_events(elf: Core) -> None:
    [(entry, row)] = zoo(elf, "perf_event")
    assert row["perf_event.type"] == "software"
    assert row["perf_event.config"] == "0x9"
    assert row["perf_event.tid"] == entry["pid"]


def test_empty_rings_and_queues(elf: Core) -> None:
    [(_, row)] = zoo(elf, "io_uring")
    assert (row["io_uring.sq_entries"], row["io_uring.cq_entries"]) == (4, 8)
    assert (row["io_uring.files"], row["io_uring.bufs"], row["io_uring.polls"]) == (0, 0, 0)
    [(_, row)] = zoo(elf, "mqueue")
    # Of /proc/sys/fs/mqueue/msg_default and msgsize_default.
    assert (row["mqueue.max_messages"], row["mqueue.max_size"]) == (10, 8192)
    assert (row["mqueue.messages"], row["mqueue.bytes"]) == (0, 0)


def test_what_is_of_another_kind_is_empty(elf: Core) -> None:
    for row in elf.rows("fds"):
        for name, value in row.items():
            prefix = name.partition(".")[0]
            if "." in name and prefix in ("ns", "io_uring", "mqueue", "bpf_map", "perf_event"):
                known = {"bpf_map": "bpf-map", "mqueue": "reg"}.get(prefix, prefix)
                assert value is None or row["kind"] == known, (name, row)


# What fd_kinds has.


@pytest.mark.parametrize(
    ("kind", "prefix", "fields"),
    [
        ("pipe", "pipe", ("unread", "capacity", "readers", "writers")),
        ("fifo", "pipe", ("unread", "capacity", "readers", "writers")),
        ("mqueue", "mqueue", ("messages", "bytes", "max_messages", "max_size", "notify_pid")),
        ("memfd", "memfd", ("name", "size")),
        ("secretmem", "secretmem", ("size",)),
        ("dmabuf", "dma_buf", ("size", "exp_name", "name")),
        ("fscontext", "fscontext", ("type", "source", "purpose")),
        ("landlock", "landlock", ("rules",)),
        ("bpf-map", "bpf_map", ("name", "key_size", "value_size", "max_entries")),
        ("bpf-prog", "bpf_prog", ("name", "insns")),
        ("bpf_link", "bpf_link", ("type",)),
        ("bpf_iter", "bpf_iter", ("target",)),
        ("io_uring", "io_uring", ("sq_entries", "cq_entries", "sq_pending", "cq_pending")),
        ("kvm-vm", "kvm_vm", ("vcpus", "pid")),
        ("kvm-vcpu", "kvm_vcpu", ("id",)),
        ("bpf-token", "bpf_token", [f"allowed_{x}" for x in ("cmds", "maps", "progs", "attachs")]),
    ],
)
def test_as_the_workload_says(elf: Core, kind: str, prefix: str, fields: Sequence[str]) -> None:
    what = {"secretmem": "memfd_secret", "dmabuf": "udmabuf", "bpf-token": "BPF token"}.get(kind)
    for entry, row in kinds(elf, kind, what):
        for field in fields:
            if field in entry["detail"]:
                assert row[f"{prefix}.{field}"] == entry["detail"][field], entry


def test_seals(elf: Core) -> None:
    for entry, row in kinds(elf, "memfd"):
        assert row["memfd.seals"] == (",".join(entry["detail"]["seals"]) or None), entry


def test_types_of_bpf(elf: Core) -> None:
    for entry, row in kinds(elf, "bpf-map"):
        assert row["bpf_map.type.raw"] == entry["detail"]["map_type"]
    for entry, row in kinds(elf, "bpf-prog"):
        assert row["bpf_prog.type.raw"] == entry["detail"]["prog_type"]


def test_links_lead_to_their_programs(elf: Core) -> None:
    rows = rows_by_fd(elf)
    for kind, column in (("bpf_link", "bpf_link.prog_id"), ("bpf_iter", "bpf_iter.prog_id")):
        for entry, row in kinds(elf, kind):
            program = rows[entry["pid"], entry["detail"]["prog"]]
            assert row[column] == program["bpf_prog.id"] is not None, entry


def test_what_is_registered(elf: Core) -> None:
    rows = rows_by_fd(elf)
    for entry, row in kinds(elf, "io_uring"):
        detail = entry["detail"]
        if "files" not in detail:
            continue
        assert row["io_uring.files"] == len(detail["files"])
        slots = {int(text.partition(":")[0]) for text in row["io_uring.registered_files"]}
        assert slots == {i for i, fd in enumerate(detail["files"]) if fd is not None}
        if elf.series not in ("5.10", "6.1", "6.12"):
            # The whole path, as readlink has it; before, what a dentry has room for.
            names = [text.partition(":")[2] for text in row["io_uring.registered_files"]]
            held = [rows[entry["pid"], fd]["name"] for fd in detail["files"] if fd is not None]
            assert len(names) == len(held)
        bufs = [f"{i}:{address:#x}/{size}" for i, (address, size) in enumerate(detail["bufs"])]
        assert row["io_uring.registered_bufs"] == bufs
        assert row["io_uring.polls"] == detail["polls"]
        return
    pytest.fail("no io_uring has registered files")


def test_completions_without_room(elf: Core) -> None:
    counts = {
        entry["detail"]["cq_overflow"]: row["io_uring.cq_overflow"]
        for entry, row in kinds(elf, "io_uring")
        if "cq_overflow" in entry["detail"]
    }
    assert counts and all(said == seen for said, seen in counts.items())


def test_calls_that_wait(elf: Core) -> None:
    [(entry, row)] = kinds(elf, "seccomp notify", "seccomp")
    assert row["seccomp.calls"] == len(entry["detail"]["calls"])
    assert row["seccomp.waiting"] == ",".join(f"{tid}:init" for tid in entry["detail"]["calls"])


def test_perf_events_in_full(elf: Core) -> None:
    for entry, row in kinds(elf, "perf_event"):
        detail = entry["detail"]
        assert row["perf_event.tid"] == detail.get("tid"), entry
        assert row["perf_event.config"] == f"{detail['config']:#x}"


def test_mounted_fuse(elf: Core) -> None:
    for entry, row in kinds(elf, "char"):
        if "connection" in entry["detail"]:
            major, minor = map(int, entry["detail"]["connection"].split(":"))
            assert row["fuse_dev.connection"] in (major << 20 | minor, None)
            assert row["fuse_dev.connection"] is not None or elf.series == "5.10"


def test_block_devices(elf: Core) -> None:
    """A disk with the guest's root on it, and one that has nothing to be read."""
    found = {
        entry["name"]: row for entry, row in entries(elf, "fd_kinds", "block") if row["block.size"]
    }
    names = [entry["name"] for entry, _ in entries(elf, "fd_kinds", "block")]
    assert names == ["/dev/vda", "/dev/loop0"] and [*found] == ["/dev/vda"]
    disk = found["/dev/vda"]
    assert disk["block.size"] == rootfs.get().stat().st_size
    # It is mounted, and open once.
    assert (disk["block.disk"], disk["block.driver"], disk["block.openers"]) == (
        "vda",
        "virtblk",
        2,
    )
    for entry, row in entries(elf, "fd_kinds", "block"):
        if row["block.size"] == 0:
            assert (row["block.disk"], row["block.driver"]) == (None, "loop"), entry
            assert row["block.openers"] == 1
