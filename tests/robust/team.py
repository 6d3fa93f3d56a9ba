"""A repository with one key for each role, each with a client of its own."""

from pathlib import Path

from pvback.config import Config
from pvback.model import LocalAddress
from pvback.repository.repository import RepositoryAccess, open_repository_access
from pvback.storage import ObjectStore
from tests.robust.world import World, new_key

ROLES = ("writer", "restorer", "maintainer", "owner")


class Members:
    """Clients by role; `world` is the first owner's."""

    def __init__(self, world: World, top: Path) -> None:
        self.world = world
        self.by_role: dict[str, World] = {}
        for role in ROLES:
            key = top / f"{role}.key"
            world.good("key", "add", "--role", role, "--label", role, "--recipient", new_key(key))
            self.by_role[role] = World(world.repository, top / f"{role}-cache", key)

    def __getitem__(self, role: str) -> World:
        return self.by_role[role]

    def access(self, role: str | None = None, *, store: ObjectStore | None = None) -> RepositoryAccess:
        """The repository as a role sees it; None: the first owner."""
        member = self.by_role[role] if role is not None else self.world
        config = Config(repository=LocalAddress(member.repository), key_file=member.key_file)
        return open_repository_access(config, store=store)

    def principal(self, role: str) -> str:
        return self.access(role).keyring.principal

    def key_object(self, role: str) -> Path:
        return self.world.repository / f"keys/{self.principal(role)}.json"
