# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m drgn_sockets``."""

from drgn_sockets.cli import run

run()
