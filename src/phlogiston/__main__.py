"""``python -m phlogiston``: the command line."""

import sys

from phlogiston.cli import main

if __name__ == "__main__":
    sys.exit(main())
