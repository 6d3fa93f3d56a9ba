"""Making a repository."""

from dataclasses import dataclass

from pvback.config import Config, Secret
from pvback.repository.repository import UNCONDITIONAL_WARNING, InitOptions, create_repository

__all__ = ["InitResult", "init"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InitResult:
    """A repository that was made."""

    repository: str
    """Its id, in hex."""
    address: str
    scope: str
    """The id of its first scope."""
    warnings: tuple[str, ...] = ()
    """What people should know of its store."""


def init(
    config: Config,
    *,
    label: str = "default",
    chunk_bytes: int | None = None,
    recovery_key: Secret | None = None,
    allow_unconditional: bool = False,
) -> InitResult:
    """Make a repository at the configured address; see `create_repository` for what is raised."""
    options = InitOptions(
        label=label,
        chunk_bytes=chunk_bytes,
        recovery_key=recovery_key,
        may_be_unconditional=allow_unconditional,
    )
    facts = create_repository(config, options=options)
    return InitResult(
        repository=facts.repository,
        address=str(config.require_repository()),
        scope=facts.scopes[0],
        warnings=() if facts.is_conditional else (UNCONDITIONAL_WARNING,),
    )
