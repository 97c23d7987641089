"""`python -m emolib` is the command line."""

import sys

from emolib.cli import main

sys.exit(main())
