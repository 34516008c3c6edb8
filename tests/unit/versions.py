# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the drgn that is installed cannot do yet."""

from __future__ import annotations

import drgn
import pytest

#: Before 0.3, drgn has no error for damaged tables, raises a plain ``Exception`` for what finders
#: raise, and reads some tables of kallsyms beyond their end.
BEFORE_0_3 = not hasattr(drgn, "BadDataError")

needs_0_3 = pytest.mark.skipif(BEFORE_0_3, reason="needs drgn 0.3")
#: For programs of memory that a test makes, and for distill.
needs_0_1 = pytest.mark.skipif(
    not hasattr(drgn.Program, "set_linux_kernel_custom"), reason="needs drgn 0.1"
)
