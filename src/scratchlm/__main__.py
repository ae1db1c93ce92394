"""``python -m scratchlm`` is the same as ``scratchlm``."""

import sys

from scratchlm.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
