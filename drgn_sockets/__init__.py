# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A socket and file-descriptor debugger for Linux kernels.

``from drgn_sockets import *`` gives helpers for the drgn REPL and for scripts; the commands
``%fds``, ``%ss``, ``%peer``, ``%tcp`` and ``%check`` are there once the package is installed.
:mod:`drgn_sockets.helpers` documents the helpers.
"""

from __future__ import annotations

from typing import Any

# The helpers of helpers.py. Not imported before they are asked for: drgn loads the plugin in
# every session.
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


def package_version() -> str:
    """The version of this package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("drgn-sockets")
    except PackageNotFoundError:
        return "not-installed"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from drgn_sockets import helpers

        return getattr(helpers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
