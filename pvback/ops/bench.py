"""How fast each stage of the data path is on this machine, alone: what a backup can at best reach."""

from collections.abc import Mapping

from pvback.datapath import run_job
from pvback.repository.repository import RepositoryAccess

__all__ = ["measure_limits"]


def measure_limits(access: RepositoryAccess) -> Mapping[str, float]:
    """Gigabytes (10^9 bytes) of plaintext a second for each stage, by its name."""
    options = access.job_options({"runs": [], "dead": [], "condemned": []})
    result = run_job("limits", access.keyring, options=options, store=access.store)
    return {str(stage): float(rate) for stage, rate in result.items()}
