# SPDX-License-Identifier: LGPL-2.1-or-later
"""Examples that are the same in every run, and nothing left behind."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", database=None, deadline=None, derandomize=True, max_examples=60)
settings.load_profile("unit")
