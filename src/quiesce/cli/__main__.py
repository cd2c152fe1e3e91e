"""`python -m quiesce.cli`: the command where it is not on the PATH."""

import sys

from quiesce.cli import main

if __name__ == "__main__":
    sys.exit(main())
