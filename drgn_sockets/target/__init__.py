# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opening a target: the running kernel, a core or a QEMU guest."""

from __future__ import annotations

from drgn_sockets.target.open import add_target_arguments, open_target

__all__ = ("add_target_arguments", "open_target")
