"""Runs `pvback WORDS...` with short waits, where the cluster does not do what is waited for."""

import sys
from unittest.mock import patch

from pvback import limits
from pvback.cli import main

if __name__ == "__main__":
    with patch.multiple(limits, MOVER_GRACE_SECONDS=10, MOVER_REFUSED_SECONDS=5.0, SETTLE_SECONDS=5.0):
        main(sys.argv[1:])
