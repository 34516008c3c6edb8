# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's structures and walks, named after the kernel's own."""
