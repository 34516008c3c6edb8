# SPDX-License-Identifier: LGPL-2.1-or-later
"""One account of the truth against another: memory, procfs, sock_diag."""
