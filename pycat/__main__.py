"""`python -m pycat`."""

import sys

from pycat.cli.main import main

sys.exit(main())
