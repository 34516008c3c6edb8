# SPDX-License-Identifier: LGPL-2.1-or-later
"""The manual, as Sphinx builds it: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference  # noqa: E402

from drgn_sockets.version import package_version  # noqa: E402

# The pages of the commands are not in git: they are written before Sphinx looks for pages.
reference.write(HERE / "commands")

project = "drgn-sockets"
author = "the drgn-sockets authors"
release = package_version()

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
# Links such as [](kernels.md#system-map) find headings down to this depth.
myst_heading_anchors = 3
# Typographic dashes would turn --all into something that no shell takes.
smartquotes = False
highlight_language = "none"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"

html_theme = "alabaster"
html_theme_options = {
    "description": "Socket and file-descriptor debugger for Linux kernels",
    "fixed_sidebar": True,
    "page_width": "75em",
}
html_show_copyright = False


def _add_wide(app: Any, page: str, source: list[str]) -> None:
    # "make test-wide" writes wide.md, which takes hours: a tree may be without it.
    if page == "index" and (HERE / "wide.md").exists():
        source[0] = source[0].replace("\nparity\n", "\nparity\nwide\n")


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("source-read", _add_wide)
