"""`python -m local up | status | demo`. Checks the Python version; `command_line.py` does the rest."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036, the one file that an older Python may read
    sys.exit("Antiphon needs Python 3.11 or newer, this is " + sys.version.split()[0])

from local.command_line import main

sys.exit(main(sys.argv[1:]))
