"""What a namespace's movers have, and what whoever takes it from them can do."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pvback.ops.mover import MoverSpec
from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace
from tests.cluster.fleet import Fleet, make_claim, wait_nothing_left, writer_pod
from tests.support.s3_servers import BUCKET, client_of, minio


@pytest.fixture
def connected(
    cluster: Cluster, namespace: Namespace, host_address: str, mover_image: str, tmp_path: Path
) -> Iterator[tuple[Fleet, Namespace]]:
    """A namespace whose movers have what the rendered policies of writer and restorer allow, and no more."""
    nothing = {"Effect": "Deny", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}
    policies = {"mover": {"Version": "2012-10-17", "Statement": [nothing]}}
    with minio(tmp_path, address=host_address, policies=policies) as server:
        fleet = Fleet(folder=tmp_path, server=server, kubeconfig=cluster.kubeconfig, image=mover_image)
        fleet.good("init", "-q")
        fleet.connect(namespace)
        words = ("key", "policy", "--bucket-style", "minio", "--scope", namespace.name)
        documents: list[Any] = [
            json.loads(fleet.good(*words, "--role", role).out) for role in ("writer", "restorer")
        ]
    statements = []
    for number, document in enumerate(documents):
        statements += [{**one, "Sid": f"{one['Sid']}{number}"} for one in document["Statement"]]
    merged = {"Version": "2012-10-17", "Statement": statements}
    with minio(tmp_path, address=host_address, policies={"mover": merged}) as server:
        fleet = replace(fleet, server=server)
        fleet.connect(namespace, "--replace", "--mover-endpoint", server.endpoint)
        yield fleet, namespace
        wait_nothing_left(namespace)


def test_the_rendered_policies_do(connected: tuple[Fleet, Namespace]) -> None:
    """A backup, an unchanged one and a restore by movers; with their credentials nothing is lost."""
    fleet, namespace = connected
    make_claim(namespace, "data")
    writer_pod(namespace, "app", "data", "echo private > /data/x")
    fleet.good("pvc", "backup", f"{namespace.name}/data")
    fleet.good("pvc", "backup", f"{namespace.name}/data")
    fleet.good("pvc", "restore", f"{namespace.name}/data", "--to", "again")
    look = objects.pod("look", "cat /again/x", image=namespace.cluster.image, claims=["again"])
    assert namespace.run(look) == "private\n"

    make_client: Any = client_of
    own, theirs = make_client(fleet.server), make_client(fleet.server.others["mover"])
    keys = [one["Key"] for one in own.list_objects_v2(Bucket=BUCKET)["Contents"]]
    (pack,) = [key for key in keys if "/data/" in key][:1]
    (state,) = [key for key in keys if key.endswith("/gc/state") and pack.split("/s/")[1][:32] in key]
    others = [key for key in keys if "/s/" in key and pack.split("/s/")[1][:32] not in key]
    assert others, "the scope that every repository has"
    assert theirs.get_object(Bucket=BUCKET, Key=pack)["Body"].read(8)
    acts: tuple[Callable[[], Any], ...] = (
        lambda: theirs.delete_object(Bucket=BUCKET, Key=pack),
        lambda: theirs.put_object(Bucket=BUCKET, Key=state, Body=b""),
        lambda: theirs.get_object(Bucket=BUCKET, Key=others[0]),
        lambda: theirs.put_object(Bucket=BUCKET, Key=f"{others[0]}x", Body=b""),
    )
    for act in acts:
        with pytest.raises(ClientError, match="AccessDenied"):
            act()


def test_a_planted_snapshot_is_not_taken(
    fleet: Fleet, namespace: Namespace, other: Namespace, tmp_path: Path
) -> None:
    """With the secret of one namespace, a snapshot that says it is of a claim of another."""
    fleet.connect(namespace)
    make_claim(other, "orders")
    writer_pod(other, "app", "orders", "true")
    fleet.connect(other)
    data = namespace.get("v1", "Secret", "pvback-repository").data
    files = {name: tmp_path / name for name in ("key", "credentials")}
    for name, path in files.items():
        path.write_bytes(base64.b64decode(data[name]))
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/x").write_text("planted")
    spec = MoverSpec(
        cluster="default",
        namespace=other.name,
        claim="orders",
        where=str(tmp_path / "volume"),
        options={},
        manifests={},
    )
    (tmp_path / "spec.json").write_text(json.dumps(spec.as_json()))
    stolen = {
        "PVBACK_PASSWORD": "",
        "PVBACK_KEY_FILE": str(files["key"]),
        "PVBACK_CACHE_DIR": str(tmp_path / "cache"),
        "AWS_SHARED_CREDENTIALS_FILE": str(files["credentials"]),
    }
    fleet.run("snapshots", "--scope", other.name, **stolen).ended(2)
    words = ("mover", "backup", str(tmp_path / "spec.json"), "--end-message", str(tmp_path / "end"))
    fleet.run(*words, **stolen).ended(0)
    (planted,) = fleet.snapshots(namespace)

    words = ("pvc", "restore", f"{other.name}/orders", "--to", "again")
    refused = fleet.run(*words).ended(2)
    assert namespace.name in refused.err
    (row,) = fleet.good("pvc", "list", "-n", other.name, "--json").json()
    assert row["last_backup"] is None
    fleet.good("pvc", "backup", f"{other.name}/orders")
    (own,) = fleet.snapshots(other)
    fleet.run(*words, "--snapshot", planted["id"]).ended(2)
    (row,) = fleet.good("pvc", "list", "-n", other.name, "--json").json()
    assert row["snapshot"] == own["id"]
    wait_nothing_left(other)
