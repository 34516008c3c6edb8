# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The time to decode all fields of TCP records, divided by the time to read their memory.

Both are measured in one process, in turn, over the same addresses in ascending order, a few
times. The last word that it prints is the ratio.
"""

from __future__ import annotations

import gc
import statistics
import time

from drgn import Program, get_default_prog, sizeof

from drgn_sockets.helpers import for_each_tcp_sock
from drgn_sockets.records.families.tcp import TcpSock

TIMES = 3
# Few enough structures to stay in a processor's cache.
PART = 128


def read(prog: Program, addresses: list[int]) -> float:
    """Get the seconds to read all structures, one at a time."""
    size = sizeof(prog.type("struct tcp_sock"))
    start = time.perf_counter()
    for address in addresses:
        prog.read(address, size)
    return time.perf_counter() - start


def decode(prog: Program, addresses: list[int]) -> float:
    """Get the seconds to read and decode all fields of each record."""
    layout = TcpSock.layout(prog)
    fields = list(TcpSock.members())
    start = time.perf_counter()
    for i in range(0, len(addresses), PART):
        batch = layout.read_batch(addresses[i : i + PART])
        for _ in zip(*map(batch.column, fields)):
            # Each turn has all fields of one record.
            pass
    return time.perf_counter() - start


def main(prog: Program) -> None:
    # The command line does this as well.
    gc.disable()
    # The machine has neither timewait sockets nor requests: all are struct tcp_sock.
    addresses = sorted(sk.value_() for sk in for_each_tcp_sock(prog))
    # Warm up: types and members are looked up the first time.
    read(prog, addresses[:100])
    decode(prog, addresses[:100])
    pairs = [(read(prog, addresses), decode(prog, addresses)) for _ in range(TIMES)]
    reads, decodes = (1e6 * statistics.median(p) / len(addresses) for p in zip(*pairs))
    ratio = statistics.median(d / r for r, d in pairs)
    print(
        f"{len(addresses)} records: read {reads:.1f} us, {len(TcpSock.members())} fields "
        f"{decodes:.1f} us, ratio {ratio:.2f}"
    )


main(get_default_prog())
