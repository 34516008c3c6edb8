# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a user asks for: words (PID:FD, inode, :port, path, 0xADDRESS), ss filters, columns."""
