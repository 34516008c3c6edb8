# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands on damaged memory and damaged files, thousands of times: see ``__main__.py``."""
