# SPDX-License-Identifier: LGPL-2.1-or-later
"""Architectures of guests. What their QEMU is told is in :mod:`vm.qemu`."""

from __future__ import annotations

import dataclasses
import platform

from vm.errors import VmError


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An architecture that guests can have."""

    #: Debian's name of it.
    name: str
    #: ``uname -m``
    machine: str
    #: How often the time that a guest of the host's own architecture takes, at most.
    slowness: float = 1

    @property
    def here(self) -> bool:
        """Whether this machine has it: then there may be KVM."""
        return platform.machine() == self.machine


AMD64 = Architecture("amd64", "x86_64")
ARM64 = Architecture("arm64", "aarch64", slowness=5)

ALL = (AMD64, ARM64)


def get(name: str) -> Architecture:
    """
    Look up an architecture by Debian's name of it.

    :raises VmError: if guests cannot have it
    """
    for a in ALL:
        if a.name == name:
            return a
    raise VmError(f"unknown architecture {name!r}: known are {', '.join(a.name for a in ALL)}")
