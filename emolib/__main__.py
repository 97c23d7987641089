"""`python -m emolib` and `emolib` are the command line."""

import importlib
import sys


def start(module: str = "emolib.cli.main") -> int:
    """Run a module's `main`. A Ctrl-C, also while modules are imported, is one line and exit code 130."""
    try:
        return importlib.import_module(module).main()
    except KeyboardInterrupt:
        print("emolib: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(start())
