"""How fast each stage of the data path is on this machine, alone: what a backup can at best reach."""

import base64
import os
from collections.abc import Mapping
from pathlib import Path

from pvback.datapath import run_job
from pvback.repository.repository import RepositoryAccess

__all__ = ["measure_limits"]


def measure_limits(
    access: RepositoryAccess, *, path: str | os.PathLike[str] | None = None
) -> Mapping[str, Mapping[str, float]]:
    """Gigabytes (10^9 bytes) of plaintext a second for each stage, with one thread and with all.

    The data are those of the file at `path`; None: made up, half of them compressible.
    """
    options = access.job_options({"runs": [], "dead": [], "condemned": []})
    if path is not None:
        options["path_b64"] = base64.b64encode(os.fsencode(Path(path).absolute())).decode()
    result = run_job("limits", access.keyring, options=options, store=access.store)
    return {
        str(stage): {str(threads): float(rate) for threads, rate in rates.items()}
        for stage, rates in result.items()
    }
