"""`python -m quiesce.cli`: the same as `python -m quiesce`."""

import sys

from quiesce.cli import main

if __name__ == "__main__":
    sys.exit(main())
