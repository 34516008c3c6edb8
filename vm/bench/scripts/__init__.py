# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scripts for drgn that the bench compares with."""
