"""`python -m emolib.course` runs the lessons and writes their pages."""

import sys

from emolib.__main__ import start

if __name__ == "__main__":
    sys.exit(start("emolib.course.run"))
