"""`python3 -m cfchat.settings` prints the table of settings in README.md."""

from __future__ import annotations

from cfchat.settings.table import make_table

if __name__ == "__main__":
    print(make_table(), end="")
