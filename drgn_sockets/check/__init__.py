# SPDX-License-Identifier: LGPL-2.1-or-later
"""Comparing what kernel memory says with what procfs and sock_diag say."""
