# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text, files and messages made of records: nothing here reads kernel memory."""
