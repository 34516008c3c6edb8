# SPDX-License-Identifier: LGPL-2.1-or-later
"""The version of this package."""

from __future__ import annotations


def package_version() -> str:
    """
    Get the version of this package, as it is installed.

    :return: The version, or ``not-installed`` if the package is run from a directory of its sources
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("drgn-sockets")
    except PackageNotFoundError:
        return "not-installed"
