# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Do modules import each other in circles? Imports of type checkers (``TYPE_CHECKING``) count.

The layers are contracts in pyproject.toml, which ``make lint`` checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest


def circles(imports: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Sets of modules that import each other, directly or not."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            new = imports[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    beyond = {module: reached(module) for module in imports}
    seen: set[str] = set()
    for module, found in beyond.items():
        if module in found and module not in seen:
            circle = {other for other in found if module in beyond[other]}
            seen |= circle
            yield sorted(circle)


def test_circles() -> None:
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"e"}, "f": {"a"}}
    assert list(circles(imports)) == [["a", "b", "c"], ["e"]]


def test_no_module_imports_another_in_a_circle() -> None:
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("drgn_sockets", exclude_type_checking_imports=False, cache_dir=None)
    imports = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    assert imports["drgn_sockets"] == {"drgn_sockets.helpers"}
    assert list(circles(imports)) == []
