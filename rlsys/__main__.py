"""`python -m rlsys` is `rlsys`."""

import sys

from rlsys.cli import main

sys.exit(main())
