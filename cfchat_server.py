#!/usr/bin/env python3
"""Start here: `python3 cfchat_server.py --demo`, or with --help."""

import os
import sys

# Isolated mode (-I) leaves the script's own folder out.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from cfchat.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
