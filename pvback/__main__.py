"""The program: `pvback`, or `python -m pvback`.

Nearly all that is allocated while the program loads stays until it ends. To look through it for cycles, while
it loads and once more at the end, took a sixth of the processor time of a short run.
"""

import gc
import sys

__all__ = ["run"]


def run() -> None:
    """Load the command line, and run it to its end, which is SystemExit."""
    gc.disable()
    try:
        from pvback.cli import main  # noqa: PLC0415 - loaded while nothing is collected
    except KeyboardInterrupt:
        # Nothing has been loaded that could say it better.
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
    gc.freeze()
    gc.enable()
    try:
        main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    run()
