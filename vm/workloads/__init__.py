# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Programs that make the situations a debugger has to explain, and say what they did.

Each workload is one module with a ``run(me)`` function and a docstring that tells its
story. See :mod:`vm.workloads.account` for what an account holds, and ``README.md`` for
the commands.
"""

#: In the order in which they are started. ``tcp_states`` is last: its states do not last.
STANDARD = (
    "tcp_echo",
    "unix_fork",
    "database",
    "fd_zoo",
    "fd_kinds",
    "threads",
    "udp_raw",
    "unix_zoo",
    "other_families",
    "netlink_zoo",
    "packet_zoo",
    "kernel_sockets",
    "netns",
    "many_holders",
    "payload",
    "processes",
    # After those that make MPTCP connections: it adds endpoints, which add subflows to others.
    "transports",
    "tipc",
    # Near the end: before 5.15, sockets made after it have no control group.
    "tcp_options",
    "tcp_states",
)
ALL = (*STANDARD, "bench")
