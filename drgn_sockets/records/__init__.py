# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plain values read from kernel structures: no drgn object leaves this package."""
