# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names as a kernel may have them: any bytes, any characters, and what means something."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st


def odd_bytes(pieces: Sequence[bytes], most: int) -> st.SearchStrategy[bytes]:
    """
    Bytes of names.

    :param pieces: What means something to the code that is looked at.
    :param most: How many bytes a name may have at random.
    """
    return st.one_of(
        st.binary(max_size=most),
        st.text(max_size=most // 2).map(lambda s: s.encode("utf-8", "surrogatepass")),
        st.lists(st.sampled_from(pieces), max_size=8).map(b"".join),
    )
