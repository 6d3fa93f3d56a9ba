"""Runs `pvback WORDS...`, which gives movers seconds to end where it gives them minutes."""

import sys
from unittest.mock import patch

from pvback import limits
from pvback.cli import main

if __name__ == "__main__":
    with patch.multiple(limits, MOVER_GRACE_SECONDS=10, MOVER_REFUSED_SECONDS=5.0):
        main(sys.argv[1:])
