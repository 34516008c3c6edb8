# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m drgn_sockets``."""

import sys

from drgn_sockets.cli import main

sys.exit(main())
