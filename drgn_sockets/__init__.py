# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A socket and file-descriptor debugger for Linux kernels.

``from drgn_sockets import *`` gives these helpers for the drgn REPL and for scripts. The commands
``%fds``, ``%ss``, ``%peer``, ``%tcp``, ``%procfs``, ``%check`` and ``%distill`` are in the REPL
once the package is installed.
"""

from typing import TYPE_CHECKING

__all__ = (
    "declare",
    "file_name",
    "for_each_fd",
    "for_each_raw_sock",
    "for_each_tcp_sock",
    "for_each_udp_sock",
    "for_each_unix_sock",
    "sk_listener",
    "sock_from_file",
    "sock_holders",
    "sock_i_ino",
    "sock_net_ino",
    "unix_peer",
    "unix_sock_name",
)

if TYPE_CHECKING:
    from drgn_sockets.helpers import (
        declare,
        file_name,
        for_each_fd,
        for_each_raw_sock,
        for_each_tcp_sock,
        for_each_udp_sock,
        for_each_unix_sock,
        sk_listener,
        sock_from_file,
        sock_holders,
        sock_i_ino,
        sock_net_ino,
        unix_peer,
        unix_sock_name,
    )
else:
    # Imported when one is asked for: drgn imports this package, for its plugin, in every session,
    # and the helpers take 35 ms of CPU time. A type checker that saw __getattr__ would take every
    # name for one of ours.

    def __getattr__(name):
        if name in __all__:
            from drgn_sockets import helpers

            return getattr(helpers, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return list(__all__)
