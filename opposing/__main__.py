"""``python -m opposing`` and ``torchrun -m opposing``: the command line."""

import sys

from opposing.cli import main

if __name__ == "__main__":
    sys.exit(main())
