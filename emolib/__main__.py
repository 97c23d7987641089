"""`python -m emolib` is the command line."""

import sys

from emolib.cli.main import main

sys.exit(main())
