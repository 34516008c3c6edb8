# SPDX-License-Identifier: LGPL-2.1-or-later
"""Landlock's rules: security/landlock/."""

from __future__ import annotations

from operator import attrgetter

from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind


class Ruleset(Struct):
    """``struct landlock_ruleset``."""

    C_TYPE = "struct landlock_ruleset"

    rules = Int("num_rules", help="rules in it")
    layers = Int("num_layers", help="layers of rules")


class Landlock(Kind):
    """A set of rules."""

    name = "landlock"
    fops = ("ruleset_fops",)
    fields = (
        Field("rules", "rules of Landlock in a set", attrgetter("rules")),
        Field("layers", "layers of a set of rules", attrgetter("layers"), False),
    )

    def read(self, file: FileRecord) -> Ruleset:
        return Ruleset.layout(file.prog).read(file.private_data)
