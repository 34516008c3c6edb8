# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is measured inside a guest, on its live kernel, beside the usual tools.

The guest's clock counts instructions (:class:`vm.guest.Guest`, *icount*), so that figures do not
depend on what else the host does, nor on how fast it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from vm import cache, guest, kernels
from vm.bench import cores
from vm.bench.measure import Run
from vm.bench.work import Work, resolved
from vm.bench.works import FDS, SS, START, TCP, of, with_types
from vm.errors import VmError

#: 40,000 file descriptors.
PAIRS = 5000
MACHINE = "live"

IPROUTE = "ss -aniemp -tux"
LSOF = "lsof -nP"
OTHERS = (IPROUTE, LSOF, "lsfd", "netstat -anp")

#: A guest without a vmlinux boots faster. With DWARF, the start of a command takes twice as long
#: under TCG, and four times the memory; the rest takes as long.
TYPES = "BTF"

SECONDS = 3600.0


def works() -> list[Work]:
    """Get all works inside the guest."""
    found = [Work(of(MACHINE, what), what.split(), instructions=True) for what in OTHERS]
    for what, command, against in (
        (START, "fds 1", None),
        (FDS, FDS, LSOF),
        (SS, SS, IPROUTE),
        (TCP, TCP, IPROUTE),
    ):
        argv = ["drgn-sockets", f"--types={TYPES.lower()}", *command.split()]
        work = Work(of(MACHINE, with_types(what, TYPES)), argv, instructions=True)
        work.against = None if against is None else of(MACHINE, against)
        found.append(work)
    return found


def measure(works: Sequence[Work], runs: int) -> None:
    """
    Boot a guest, and run them in it.

    :raises VmError: if the guest fails
    """
    cache.note(f"measuring live, in a guest with {8 * PAIRS} file descriptors")
    with guest.Guest(kernels.get(cores.KERNEL), icount=True) as machine:
        machine.start_workloads([f"bench:{PAIRS}"])
        machine.freeze_workloads()
        todo = [[work.name, [str(resolved(word)) for word in work.argv]] for work in works]
        try:
            done = machine.run(
                ["python3", "-m", "vm.bench.inside", str(runs)],
                input=json.dumps(todo).encode(),
                stderr=sys.stderr.buffer if sys.stderr.isatty() else None,
                timeout=SECONDS,
                check=True,
            )
        except subprocess.CalledProcessError as e:
            raise VmError("measuring in the guest failed: " + e.stderr.decode().strip()) from e
    told = json.loads(done.stdout)
    for work in works:
        _, *measured = [Run(**fields) for fields in told[work.name]]
        work.runs = measured
        for run in measured:
            work.look_at(run)
