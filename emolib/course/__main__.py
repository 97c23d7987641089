"""`python -m emolib.course` runs the lessons and writes their pages."""

import sys

from emolib.course.run import main

sys.exit(main())
