#!/usr/bin/env python3
"""Start here: `python3 cfchat_server.py --demo`, or with --help."""

from __future__ import annotations

import sys

from cfchat.cli import main

if __name__ == "__main__":
    sys.exit(main())
