"""Commands that seal and open keys: the way to a KMS, to Vault, to a card.

A command is a program with arguments, run without a shell. To seal it gets the 80 bytes of a key's secret on
standard input and answers with anything that it can undo; to open it gets those bytes and answers with the 80
bytes, as they are, in hex or in base64. Its standard error goes where ours goes. What it is given and what it
answers is in no message, and on no command line.
"""

import base64
import binascii
import contextlib
from collections.abc import Sequence

from pvback import limits
from pvback.errors import UsageError, WrongKeyError

__all__ = ["SECRET_BYTES", "open_with_command", "seal_with_command"]

SECRET_BYTES = 80


def seal_with_command(command: Sequence[str], secret: bytes) -> bytes:
    """What the command makes of a secret. Raises UsageError when it fails, or takes too long."""
    sealed = _run(command, secret, "seals a key")
    if sealed is None:
        raise UsageError(
            "the command that seals a key failed", key=command[0], hint="it said why on standard error"
        )
    if not 0 < len(sealed) <= limits.KEY_COMMAND_BYTES_MAX:
        raise UsageError("the command that seals a key answered with nothing, or too much", key=command[0])
    return sealed


def open_with_command(command: Sequence[str], sealed: bytes) -> bytes:
    """The secret in what a command sealed. Raises WrongKeyError when this command does not open it.

    Raises UsageError when it does not start, or takes too long.
    """
    answer = _run(command, sealed, "opens a key")
    if answer is None:
        raise WrongKeyError("the key command failed", key=command[0], hint="it said why on standard error")
    secret = _parse_secret(answer)
    if secret is None:
        raise WrongKeyError(f"the key command did not answer with the {SECRET_BYTES} bytes", key=command[0])
    return secret


def _parse_secret(answer: bytes) -> bytes | None:
    if len(answer) == SECRET_BYTES:
        return answer
    text = answer.strip()
    if len(text) == 2 * SECRET_BYTES:
        with contextlib.suppress(ValueError):
            return bytes.fromhex(text.decode("ascii"))
    with contextlib.suppress(binascii.Error):
        secret = base64.b64decode(text, validate=True)
        if len(secret) == SECRET_BYTES:
            return secret
    return None


def _run(command: Sequence[str], given: bytes, what: str) -> bytes | None:
    """What it answered; None when it ended with another status than 0."""
    # Loaded here: most runs need no command.
    import subprocess  # noqa: PLC0415

    try:
        done = subprocess.run(
            list(command),
            input=given,
            stdout=subprocess.PIPE,
            timeout=limits.KEY_COMMAND_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"the command that {what} did not end in time", key=command[0]) from None
    except OSError as exc:
        raise UsageError(f"the command that {what} did not start: {exc.strerror}", key=command[0]) from None
    return done.stdout if done.returncode == 0 else None
