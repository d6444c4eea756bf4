"""`llamaweb` and `python -m llamaweb`: the command line, interruptible from its first moment on."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; its exit code."""
    try:
        from llamaweb.host.cli import main

        return main()
    except KeyboardInterrupt:  # while Python still imports, or while it ends
        print("Interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
