"""`python -m pycat`."""

import sys

from pycat.cli import main

sys.exit(main())
