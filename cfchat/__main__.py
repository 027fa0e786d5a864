"""`python3 -m cfchat` is the same as the command `cfchat`."""

from __future__ import annotations

import sys

from cfchat.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
