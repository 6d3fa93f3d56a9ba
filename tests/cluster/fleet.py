"""A repository that pods reach, and the program run against it and the cluster, as a person would."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kubernetes.dynamic.exceptions import NotFoundError, ResourceNotFoundError

from tests.cluster import objects
from tests.cluster.client import WAIT_SECONDS_MAX, Namespace, wait_for
from tests.support import warm
from tests.support.s3_servers import BUCKET, S3Server

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse"
SECONDS_MAX = 240
NUDGE_SECONDS = 15.0
GOING_SECONDS_MAX = 240.0


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    def ended(self, *codes: int) -> "Done":
        """Itself, when it ended with one of these codes and without a traceback."""
        assert self.code in codes, (self.words, self.code, self.out[-2000:], self.err[-3000:])
        assert "Traceback" not in self.err, self.err
        return self

    def json(self) -> Any:
        """The one document."""
        return json.loads(self.out)

    def messages(self, kind: str) -> list[dict[str, Any]]:
        """The JSON lines of a kind."""
        lines = [json.loads(line) for line in self.out.splitlines()]
        return [line for line in lines if line["message_type"] == kind]


@dataclass(frozen=True)
class Fleet:
    """One repository, one cluster, one person with an owner's password."""

    folder: Path
    server: S3Server
    kubeconfig: Path
    image: str
    prefix: str = "fleet"
    module: str = "pvback"

    def hasty(self) -> "Fleet":
        """The same, with a program that waits for seconds where it waits for longer; see `hasty.py`."""
        return replace(self, module="tests.cluster.hasty")

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PVBACK_", "AWS_"))}
        return (
            kept
            | self.server.environment
            | {
                "PVBACK_REPOSITORY": f"s3://{BUCKET}/{self.prefix}",
                "PVBACK_S3_ENDPOINT": self.server.endpoint,
                "PVBACK_PASSWORD": PASSWORD,
                "PVBACK_CACHE_DIR": str(self.folder / "cache"),
                "KUBECONFIG": str(self.kubeconfig),
            }
        )

    def run(self, *words: str, **variables: str) -> Done:
        """One command to its end."""
        with self.start(*words, **variables) as process:
            out, err = process.communicate(timeout=SECONDS_MAX)
            return Done(words, process.returncode, out, err)

    @contextmanager
    def start(self, *words: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
        """A command that goes on; killed at the end, when it has not ended."""
        process = warm.start(words, self.environment | variables, module=self.module)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def mortal(self, count: int, *words: str) -> "subprocess.CompletedProcess[str]":
        """A command that is killed before its change after so many; see `mortal.py`."""
        words = (str(count), *words)
        return warm.run(words, self.environment, module="tests.cluster.mortal", seconds=SECONDS_MAX)

    def good(self, *words: str) -> Done:
        """One command that has to succeed."""
        return self.run(*words).ended(0)

    def credentials(self, *, key: str = "", secret: str = "") -> Path:
        """An AWS credentials file: of movers, who may not delete, or others."""
        mover = self.server.others["mover"]
        path = self.folder / f"credentials-{key or 'own'}"
        path.touch(0o600)
        path.write_text(
            "[default]\n"
            f"aws_access_key_id = {key or mover.access_key}\n"
            f"aws_secret_access_key = {secret or mover.secret_key}\n"
            "region = us-east-1\n"
        )
        return path

    def connect(self, namespace: Namespace, *more: str) -> None:
        """Give a namespace its key, scope and secret."""
        words = ("--image", self.image, "--aws-credentials", str(self.credentials()), *more)
        self.good("pvc", "connect", namespace.name, *words)

    def snapshots(self, namespace: Namespace) -> list[dict[str, Any]]:
        """Of the namespace's scope."""
        found: list[dict[str, Any]] = self.good("snapshots", "--scope", namespace.name, "--json").json()
        return found


def has_groups(namespace: Namespace) -> list[tuple[str, str]]:
    """The kind of groups of volume snapshots, where there is one."""
    try:
        namespace.cluster.kind("groupsnapshot.storage.k8s.io/v1", "VolumeGroupSnapshot")
    except ResourceNotFoundError:
        return []
    return [("groupsnapshot.storage.k8s.io/v1", "VolumeGroupSnapshot")]


def left_behind(namespace: Namespace) -> list[str]:
    """Everything in a namespace that a run of ours has made."""
    return list(_left_behind(namespace))


def _left_behind(namespace: Namespace) -> Iterator[str]:
    """The same, of which no more is asked for than is wanted."""
    kinds = [
        ("batch/v1", "Job"),
        ("v1", "Pod"),
        ("v1", "PersistentVolumeClaim"),
        ("snapshot.storage.k8s.io/v1", "VolumeSnapshot"),
        *has_groups(namespace),
        ("v1", "Secret"),
        ("v1", "ConfigMap"),
    ]
    for api_version, kind in kinds:
        resource = namespace.cluster.kind(api_version, kind)
        listed = resource.get(namespace=namespace.name, label_selector="pvback.io/run").items
        yield from (f"{kind} {one.metadata.name}" for one in listed)


def wait_nothing_left(namespace: Namespace) -> None:
    """Return when all that runs have made is gone: what was deleted takes a moment to go.

    The snapshot controller or its sidecar may lose that a volume snapshot was deleted, until it looks at
    everything again, which is every quarter of an hour (seen with external-snapshotter 8.7). A change makes
    it look. What nobody has deleted by then was left by us.
    """
    start = time.monotonic()
    nudge = start + NUDGE_SECONDS

    def look() -> bool:
        nonlocal nudge
        is_any_left = any(_left_behind(namespace))
        if is_any_left and time.monotonic() > nudge:
            going, left = nudge_volume_snapshots(namespace), left_behind(namespace)
            nudge += NUDGE_SECONDS
            if time.monotonic() > start + WAIT_SECONDS_MAX and not set(left) <= going:
                raise AssertionError(f"left behind: {left}; of these are being deleted: {sorted(going)}")
        return not is_any_left

    def what() -> str:
        kind = namespace.cluster.kind("snapshot.storage.k8s.io/v1", "VolumeSnapshot")
        found = [one.to_dict() for one in kind.get(namespace=namespace.name).items]
        return f"left behind: {left_behind(namespace)}; volume snapshots: {found}"

    wait_for(look, what, seconds=GOING_SECONDS_MAX)


def nudge_volume_snapshots(namespace: Namespace) -> set[str]:
    """Change the volume snapshots that are being deleted, and their contents; which these are."""
    change = {"metadata": {"annotations": {"pvback.test/looked": str(time.monotonic())}}}
    found = set()

    def nudge(kind: str, name: str, **where: str) -> None:
        with suppress(NotFoundError):
            namespace.cluster.kind("snapshot.storage.k8s.io/v1", kind).patch(
                name=name, body=change, content_type="application/merge-patch+json", **where
            )

    snapshots = namespace.cluster.kind("snapshot.storage.k8s.io/v1", "VolumeSnapshot")
    for one in snapshots.get(namespace=namespace.name).items:
        if one.metadata.deletionTimestamp:
            found.add(f"VolumeSnapshot {one.metadata.name}")
            nudge("VolumeSnapshot", one.metadata.name, namespace=namespace.name)
            if content := (one.status or {}).get("boundVolumeSnapshotContentName"):
                nudge("VolumeSnapshotContent", content)
    return found


def writer_pod(namespace: Namespace, name: str, claim: str, script: str, **wishes: Any) -> None:
    """A running pod that has written what `script` says to /CLAIM, and stays."""
    body = f"{script}\necho written\nwhile true; do sleep 1; done"
    namespace.create(objects.pod(name, body, image=namespace.cluster.image, claims=[claim], **wishes))
    namespace.wait_phase(name, "Running")
    wait_for(lambda: "written" in namespace.log(name), lambda: f"pod {name} says: {namespace.log(name)}")


def digest_of(namespace: Namespace, claim: str, name: str = "look") -> str:
    """Names, sizes and contents of what is in a claim."""
    script = f"cd /{claim} && find . -type f | sort | xargs sha256sum; find . | sort"
    found = namespace.run(objects.pod(name, script, image=namespace.cluster.image, claims=[claim]))
    namespace.delete("v1", "Pod", name)
    return found


def make_claim(namespace: Namespace, name: str, **wishes: Any) -> None:
    """A claim of the cluster's class, unless it is said otherwise."""
    given: dict[str, Any] = {"storage_class": namespace.cluster.storage_class, **wishes}
    namespace.create(objects.claim(name, **given))


def die(namespace: Namespace) -> None:
    """Let the runs of a namespace be dead, whose time has not come yet."""
    kind = namespace.cluster.kind("v1", "ConfigMap")
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    change = {"metadata": {"annotations": {"pvback.io/lives-until": past}}}
    for one in kind.get(namespace=namespace.name, label_selector="pvback.io/role=run").items:
        kind.patch(
            name=one.metadata.name,
            namespace=namespace.name,
            body=change,
            content_type="application/merge-patch+json",
        )
