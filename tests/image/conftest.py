"""The image that `make image` built, unpacked once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.image.build import OUTPUT, Image, unpack
from tests.support.container import Container, config_of

HERE = Path(__file__).parent
# OpenShift gives each namespace a range of user ids like this one.
ARBITRARY_UID = 1000680000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.image)


@pytest.fixture(scope="session")
def image() -> Image:
    found = Image(folder=OUTPUT)
    assert found.archive.is_file(), "run `make image` first"
    assert os.geteuid() == 0, "containers are started as root"
    return found


@pytest.fixture(scope="session")
def root(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image") / "root"
    folder.mkdir(mode=0o755)
    unpack(image.archive, folder)
    return folder


@pytest.fixture
def container(image: Image, root: Path, tmp_path: Path) -> Callable[..., Container]:
    """A container of the image; of nobody in particular unless told."""

    def make(volumes: dict[Path, str] | None = None, *, uid: int | None = ARBITRARY_UID) -> Container:
        bundles = tmp_path / "bundles"
        bundles.mkdir(exist_ok=True)
        return Container(
            root=root, config=config_of(image.archive), bundles=bundles, uid=uid, volumes=volumes or {}
        )

    return make
