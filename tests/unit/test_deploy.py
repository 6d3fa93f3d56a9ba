"""What lies in `deploy/`: restricted pods, settings and command lines that exist, an image that fits them."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pvback.cli import main
from pvback.config import load_config
from pvback.errors import PvbackError

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.glob("deploy/examples/*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def pods() -> list[Any]:
    found = []
    for path in EXAMPLES:
        for document in documents(path):
            spec = document["spec"]
            if document["kind"] == "CronJob":
                spec = spec["jobTemplate"]["spec"]
            if document["kind"] in ("CronJob", "Job"):
                found.append(pytest.param(spec["template"]["spec"], id=path.name))
    return found


def test_there_are_examples() -> None:
    assert {path.name for path in EXAMPLES} == {"cronjob-pvc.yaml", "init-job.yaml"}
    assert len(pods()) == 2


@pytest.mark.parametrize("pod", pods())
def test_pods_are_restricted(pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] != 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName", "initContainers"} & set(pod)
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
    allowed = {"persistentVolumeClaim", "secret", "emptyDir"}
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])


@pytest.mark.parametrize("pod", pods())
def test_what_is_written_to_is_mounted(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    for path in (environment["PVBACK_CACHE_DIR"], "/tmp"):
        assert "emptyDir" in volumes[mounts[path]["name"]]
    assert "secret" in volumes[mounts[str(Path(environment["PVBACK_PASSWORD_FILE"]).parent)]["name"]]
    repository = volumes[mounts[str(Path(environment["PVBACK_REPOSITORY"]).parent)]["name"]]
    assert not repository["persistentVolumeClaim"].get("readOnly")
    for path in container["args"]:
        if path in mounts:
            assert mounts[path]["readOnly"]
            assert volumes[mounts[path]["name"]]["persistentVolumeClaim"]["readOnly"]


@pytest.mark.parametrize("pod", pods())
def test_settings_exist(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert all("value" in variable for variable in container["env"])
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    config = load_config(environment=environment)
    for name, value in environment.items():
        field = {"PVBACK_MEMORY": "memory_bytes"}.get(name, name.removeprefix("PVBACK_").lower())
        assert getattr(config, field), f"{name}={value}"


@pytest.mark.parametrize("pod", pods())
def test_command_lines_exist(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    group = click.Context(main, info_name="pvback", **main.context_settings)
    name, command, rest = main.resolve_command(group, list(container["args"]))
    assert command is not None
    command.make_context(name, rest, parent=group)
    with pytest.raises((click.UsageError, PvbackError)):
        command.make_context(name, [*rest, "--no-such-option"], parent=group)


def test_failures_that_stay_are_not_tried_again() -> None:
    (cronjob,) = documents(ROOT / "deploy/examples/cronjob-pvc.yaml")
    job = cronjob["spec"]["jobTemplate"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["operator"] == "In"
    # 30 is storage, which may be back; 11 is another writer, which may be gone.
    assert set(rule["onExitCodes"]["values"]) == {2, 3, 10, 12, 13, 20}
    assert cronjob["spec"]["concurrencyPolicy"] == "Forbid"


def test_the_image_fits_the_pods() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    final = text.split("\nFROM ")[-1]
    assert (user := re.search(r"^USER (\d+):0$", final, flags=re.MULTILINE))
    assert int(user[1]) > 0
    assert "PVBACK_CACHE_DIR=/cache" in final
    assert 'ENTRYPOINT ["pvback"]' in final
    assert not re.search(r"^(ADD|VOLUME)\b", final, flags=re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "native/target"} <= set(ignored)
