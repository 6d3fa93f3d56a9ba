"""A process whose clock is not the world's, by Debian's `faketime`."""

import shutil


def wrong_clock(span: str) -> tuple[str, ...]:
    """What a command line begins with for a clock that is off by a span such as `+5h` or `-30d`.

    It goes as fast as the right one, and what measures spans is right. Times of files are the file system's.
    """
    assert shutil.which("faketime"), "install faketime"
    return ("env", "NO_FAKE_STAT=1", "faketime", "--exclude-monotonic", "-f", span)
