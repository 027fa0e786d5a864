#!/usr/bin/env python3
"""Start here: `python3 cfchat_server.py --demo`. --help says more."""

import os
import sys

# In isolated mode (-I) Python does not look into the script's own folder.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from cfchat.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
