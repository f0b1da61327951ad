"""`python -m local up | status | demo`. Reads the arguments; each command has a module of its own."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036, the one file that an older Python may read
    sys.exit("Antiphon needs Python 3.11 or newer, this is " + sys.version.split()[0])

from local.command_line import main

sys.exit(main(sys.argv[1:]))
