# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real kernels in QEMU: fetch, boot, load, dump, run tests inside (see vm/README.md)."""
