"""`python -m llamaweb`: the command line."""

from __future__ import annotations

import sys

from llamaweb.host.cli import main

if __name__ == "__main__":
    sys.exit(main())
