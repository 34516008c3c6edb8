# SPDX-License-Identifier: LGPL-2.1-or-later
"""perf events: kernel/events/core.c."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn import Program

from drgn_sockets.kernel.enums import enum_names
from drgn_sockets.kernel.memory import read_string
from drgn_sockets.kernel.structs import Int, OptInt, Struct
from drgn_sockets.kernel.task import Task
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind, shows_fdinfo
from drgn_sockets.records.kinds.bpf_prog import prog_id
from drgn_sockets.text import escape

_NAME_MAX = 64


class PerfEvent(Struct):
    """``struct perf_event``."""

    C_TYPE = "struct perf_event"

    id = Int("id", help="ID of the event")
    state = Int("state", help="enum perf_event_state")
    cpu = Int("cpu", help="its processor, -1 for any")
    count = Int("count.a.a.counter", "count.a.counter", "count.counter", help="what it counted")
    pmu = Int("pmu", help="struct pmu *")
    target = Int("hw.target", help="struct task_struct *; NULL for all")
    prog = Int("prog", help="struct bpf_prog * that is run on overflow")
    type = Int("attr.type", help="PERF_TYPE_*")
    orig_type = OptInt("orig_type", help="the same, as it was asked for")
    config = Int("attr.config", help="by type")
    config1 = Int("attr.config1", help="by type")
    config2 = Int("attr.config2", help="by type")
    config3 = OptInt("attr.config3", help="by type")
    config4 = OptInt("attr.config4", help="by type")


class _Pmu(Struct):
    C_TYPE = "struct pmu"

    type = Int("type")
    name = Int("name")


class PerfEventRecord(NamedTuple):
    """A perf event, its PMU and its target."""

    event: PerfEvent
    type: str
    state: str
    #: Type of its PMU, ``None`` if it has none.
    pmu_type: int | None
    #: Thread that it counts, ``None`` for all.
    tid: int | None
    prog_id: int | None


def _type(prog: Program, event: PerfEvent, pmu: _Pmu | None) -> str:
    # The kernel may have replaced attr.type by the type of the PMU.
    value = event.type if event.orig_type is None else event.orig_type
    name = enum_names(prog, "perf_type_id", "PERF_TYPE_").get(value, "max")
    if name == "max":
        # The type is that of a PMU, so its name is the PMU's.
        name = escape(read_string(prog, pmu.name, _NAME_MAX) or b"") if pmu is not None else ""
    return name or str(value)


class PerfEventKind(Kind):
    """A perf event."""

    name = "perf_event"
    fops = ("perf_fops",)
    fields = (
        Field("id", "ID of a perf event", lambda it: it.event.id),
        Field("type", "type of a perf event", lambda it: it.type),
        Field("config", "what it counts, by type", lambda it: f"{it.event.config:#x}"),
        Field("tid", "thread that it counts, if it is one", lambda it: it.tid),
        Field(
            "cpu",
            "processor on which it counts, if it is one",
            lambda it: it.event.cpu if it.event.cpu >= 0 else None,
        ),
        Field("state", "state of a perf event", lambda it: it.state),
        Field("count", "what it counted, without what is in counters", lambda i: i.event.count),
        Field("prog_id", "ID of the BPF program that it runs", lambda it: it.prog_id),
    )

    def read(self, file: FileRecord) -> PerfEventRecord:
        prog = file.prog
        event = PerfEvent.layout(prog).read(file.private_data)
        pmu = _Pmu.layout(prog).read(event.pmu) if event.pmu else None
        states = enum_names(prog, "perf_event_state", "PERF_EVENT_STATE_")
        return PerfEventRecord(
            event,
            _type(prog, event, pmu),
            states.get(event.state, str(event.state)),
            pmu.type if pmu is not None else None,
            Task.layout(prog).read(event.target).pid if event.target else None,
            prog_id(prog, event.prog) if event.prog else None,
        )

    def fdinfo(self, file: FileRecord, it: PerfEventRecord) -> Iterator[bytes]:
        """``perf_show_fdinfo()``, which only newer kernels have."""
        if not shows_fdinfo(file):
            return
        event = it.event
        yield b"perf_event_attr.type:\t%d\n" % (event.orig_type or 0)
        if it.pmu_type is not None:
            yield b"pmu_type:\t%d\n" % it.pmu_type
        for name in ("config", "config1", "config2", "config3", "config4"):
            value = getattr(event, name)
            if value is not None:
                yield b"perf_event_attr.%b:\t0x%x\n" % (name.encode(), value)
