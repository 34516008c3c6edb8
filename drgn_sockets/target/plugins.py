# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Plugins of drgn that a command line has no use for.

drgn loads all plugins for the first program of a process. Its own and ours bring commands of
its REPL, and with them most of drgn: importing that takes 34 ms.
Others may bring finders of debugging symbols, which count here as in drgn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

#: In the environment, drgn's own: patterns of the names of plugins that are not to be loaded.
VARIABLE = "DRGN_DISABLE_PLUGINS"

# Entry points whose plugins do nothing but to register commands for the REPL; what ours does
# besides, open_target() does itself.
_REPL_ONLY = {
    "builtin_commands": "drgn.commands._builtin",
    "crash_commands": "drgn.commands._crash",
    "drgn_sockets": "drgn_sockets.plugin",
}
_GROUP = "drgn.plugins"


def leave_out() -> None:
    """
    Have drgn load no plugins that only bring commands for its REPL, in this process.

    Where there are no others, drgn need not look for them either.
    """
    disabled = os.environ.get(VARIABLE, "")
    if disabled == "*":
        return
    others = _others()
    os.environ[VARIABLE] = (
        ",".join(filter(None, (disabled, *_REPL_ONLY))) if others is None or others else "*"
    )


def _others() -> list[str] | None:
    """
    Names of the plugins installed besides, ``None`` if only :mod:`importlib.metadata` can tell.
    """
    # Reads the files that importlib.metadata reads; importing importlib.metadata takes 12 ms.
    finders = [f for f in sys.meta_path if hasattr(f, "find_distributions")]
    if [getattr(f, "__name__", "") for f in finders] != ["PathFinder"]:
        return None
    found = []
    for directory in sys.path:
        try:
            names = os.listdir(directory or ".")
        except FileNotFoundError:
            continue
        except OSError:
            # An archive, which can hold some as well.
            return None
        for name in names:
            if name.endswith(".egg"):
                return None
            if name.endswith((".dist-info", ".egg-info")):
                try:
                    with open(
                        os.path.join(directory, name, "entry_points.txt"),
                        encoding="utf-8",
                    ) as f:
                        text = f.read()
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except (OSError, ValueError):
                    return None
                if _GROUP in text:
                    found += [n for n, value in _plugins(text) if _REPL_ONLY.get(n) != value]
    return found


def _plugins(text: str) -> Iterator[tuple[str, str]]:
    """Names and values of the plugins in an ``entry_points.txt``."""
    inside = False
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if line.strip().startswith("["):
            inside = line.strip()[1:-1].strip() == _GROUP
        elif inside and equals and not line.strip().startswith("#"):
            yield name.strip(), value.strip()
