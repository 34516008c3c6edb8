# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Keeping drgn from loading plugins that a command line does not use.

drgn loads all plugins for the first program of a process. Its own plugins and ours bring commands
for its REPL, and import most of drgn with them, which takes 34 ms. Other plugins may bring finders
of debugging symbols, which commands use as drgn does; so these plugins are loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

#: drgn's environment variable with name patterns of plugins that it does not load.
VARIABLE = "DRGN_DISABLE_PLUGINS"

# Entry points of plugins that only register commands for the REPL. Ours also prepares types from
# BTF, which open_target() does itself.
_REPL_ONLY = {
    "builtin_commands": "drgn.commands._builtin",
    "crash_commands": "drgn.commands._crash",
    "drgn_sockets": "drgn_sockets.plugin",
}
_GROUP = "drgn.plugins"


def leave_out() -> None:
    """
    Have drgn, in this process, load no plugins that only bring commands for its REPL.

    If no other plugins are installed, drgn does not search for plugins at all.
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
    Names of the other installed plugins; ``None`` if only :mod:`importlib.metadata` can tell.
    """
    # This reads the files that importlib.metadata would read, whose import takes 12 ms.
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
            # An archive, which can hold plugins too.
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
