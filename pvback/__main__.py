"""The program: `pvback`, or `python -m pvback`.

Nearly all that is allocated while the program loads stays until it ends. To look through it for cycles, while
it loads and once more at the end, took a sixth of the processor time of a short run.
"""

import gc
import signal
import sys
from types import FrameType
from typing import NoReturn

__all__ = ["run"]


def run() -> None:
    """Load the command line, and run it to its end, which is SystemExit."""
    # The first process of a container, as movers are, does not end by a signal that it does not handle.
    signal.signal(signal.SIGTERM, _terminate)
    gc.disable()
    try:
        from pvback.cli import main  # noqa: PLC0415 - loaded while nothing is collected

        gc.freeze()
        gc.enable()
        main()
    except KeyboardInterrupt:
        # Before the command line is there, or after it: nobody else is there to say it.
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
    finally:
        gc.freeze()


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run()
