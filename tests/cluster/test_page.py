"""docs/kubernetes.md, run as it stands by somebody who copies and pastes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kubernetes.dynamic.exceptions import NotFoundError

from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace, new_namespace
from tests.cluster.fleet import Fleet
from tests.cluster.local.programs import find_programs
from tests.cluster.restores import remove_populators_rights

PAGE = Path(__file__).parents[2] / "docs/kubernetes.md"
NAMESPACE = "shop"


@pytest.fixture
def shop(cluster: Cluster, namespace_names: list[str]) -> Iterator[Namespace]:
    """The namespace of the page, made before it: `restricted`, and removed afterwards."""
    namespace_names.append(NAMESPACE)
    with new_namespace(cluster, objects.namespace(NAMESPACE)) as made:
        yield made
        with suppress(NotFoundError):
            remove_populators_rights(made)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_page(fleet: Fleet, shop: Namespace, tmp_path: Path) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8, "the page has its steps"
    script = "set -euo pipefail\n" + "".join(blocks)
    script = script.replace(f"kubectl create namespace {NAMESPACE}\n", "")
    folders = [str(Path(sys.executable).parent)]
    if shop.cluster.is_local:
        folders.append(str(find_programs()))
    environment = fleet.environment | {
        "PATH": ":".join([*folders, os.environ["PATH"]]),
        "PVBACK_REPOSITORY": f"{fleet.environment['PVBACK_REPOSITORY']}-page",
        "PVBACK_CACHE_DIR": str(tmp_path / "cache"),
        "IMAGE": fleet.image,
        "SHELL_IMAGE": shop.cluster.image,
        "MOVER_CREDENTIALS": str(fleet.credentials()),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    assert "restored shop/orders-again from snapshot" in done.stdout
    assert "restored shop/orders from snapshot" in done.stdout
