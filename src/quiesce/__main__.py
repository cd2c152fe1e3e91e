"""`python -m quiesce`: the command `quiesce` where it is not on the PATH."""

import sys

from quiesce.cli import main

if __name__ == "__main__":
    sys.exit(main())
