"""The control plane: processes of this machine that listen on the bridge or on loopback."""

import ssl
import urllib.error
import urllib.request
from pathlib import Path

from tests.cluster.local import certificates, processes
from tests.cluster.local.layout import (
    API,
    API_PORT,
    CERTIFICATES,
    DOMAIN,
    HOME,
    HOST_ADDRESS,
    KUBECONFIG,
    NODES,
    SERVICE_ADDRESS,
    SERVICES,
)
from tests.cluster.local.programs import find_programs
from tests.support.s3_servers import free_ports

READY_SECONDS_MAX = 120.0
SERVICE_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


def make_identities() -> None:
    """An authority, a certificate for each who talks, and their kubeconfigs."""
    certificates.make_authority()
    certificates.make_key("service-accounts")
    certificates.sign(
        "etcd", user="etcd", names=["localhost"], addresses=[HOST_ADDRESS.__class__("127.0.0.1")]
    )
    certificates.sign(
        "apiserver", user="kube-apiserver", names=SERVICE_NAMES, addresses=[HOST_ADDRESS, SERVICE_ADDRESS]
    )
    users = {
        "apiserver-kubelet": ("apiserver-kubelet", ["system:masters"]),
        "admin": ("admin", ["system:masters"]),
        "storage": ("storage", ["system:masters"]),
        "dns": ("dns", ["system:masters"]),
        "controller-manager": ("system:kube-controller-manager", []),
        "scheduler": ("system:kube-scheduler", []),
        "proxy": ("system:kube-proxy", []),
    }
    for name, (user, groups) in users.items():
        certificates.sign(name, user=user, groups=groups)
    for node in NODES:
        certificates.sign(
            node.name,
            user=f"system:node:{node.name}",
            groups=["system:nodes"],
            names=[node.name],
            addresses=[node.address],
        )
    for name in (
        "storage",
        "dns",
        "controller-manager",
        "scheduler",
        "proxy",
        *(node.name for node in NODES),
    ):
        certificates.write_kubeconfig(kubeconfig(name), name)
    certificates.write_kubeconfig(KUBECONFIG, "admin")


def kubeconfig(name: str) -> Path:
    """The kubeconfig of one of the cluster's own parts."""
    return HOME / f"{name}.kubeconfig"


def start_etcd() -> str:
    """Start etcd on loopback, for holders of our certificates only; its URL."""
    client, peer = free_ports(2)
    url = f"https://127.0.0.1:{client}"
    pair = [
        f"--cert-file={CERTIFICATES}/etcd.crt",
        f"--key-file={CERTIFICATES}/etcd.key",
        "--client-cert-auth",
    ]
    argv = [f"--data-dir={HOME}/etcd", f"--trusted-ca-file={CERTIFICATES}/ca.crt", *pair]
    argv += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    # Of no other member; it may be lost with the machine.
    argv += [
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync",
        "--logger=zap",
        "--log-level=warn",
    ]
    processes.start("etcd", [str(find_programs() / "etcd"), *argv])
    return url


def start_apiserver(etcd: str) -> None:
    """Start the API server on the bridge, where the tests, the nodes and pods reach it."""
    folder = CERTIFICATES
    flags = {
        "etcd-servers": etcd,
        "etcd-cafile": folder / "ca.crt",
        "etcd-certfile": folder / "etcd.crt",
        "etcd-keyfile": folder / "etcd.key",
        "bind-address": HOST_ADDRESS,
        "advertise-address": HOST_ADDRESS,
        "secure-port": API_PORT,
        "client-ca-file": folder / "ca.crt",
        "tls-cert-file": folder / "apiserver.crt",
        "tls-private-key-file": folder / "apiserver.key",
        "kubelet-certificate-authority": folder / "ca.crt",
        "kubelet-client-certificate": folder / "apiserver-kubelet.crt",
        "kubelet-client-key": folder / "apiserver-kubelet.key",
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": folder / "service-accounts.pub",
        "service-account-signing-key-file": folder / "service-accounts.key",
        "service-cluster-ip-range": SERVICES,
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        # A node that is gone loses its pods after ten seconds, not after five minutes.
        "default-not-ready-toleration-seconds": 10,
        "default-unreachable-toleration-seconds": 10,
        "profiling": "false",
    }
    _start("kube-apiserver", flags)


def start_controllers() -> None:
    """Start the controller manager and the scheduler."""
    folder = CERTIFICATES
    common = {"leader-elect": "false", "secure-port": 0, "profiling": "false"}
    flags = {
        "kubeconfig": kubeconfig("controller-manager"),
        "use-service-account-credentials": "true",
        "service-account-private-key-file": folder / "service-accounts.key",
        "root-ca-file": folder / "ca.crt",
        # Five times what a kubelet needs to say that it lives.
        "node-monitor-grace-period": "10s",
        "node-monitor-period": "1s",
        "flex-volume-plugin-dir": HOME / "flexvolume",
    }
    _start("kube-controller-manager", flags | common)
    _start("kube-scheduler", {"kubeconfig": kubeconfig("scheduler")} | common)


def start_dns() -> None:
    """Start the server that pods ask for names: those of services, and no other."""
    corefile = HOME / "Corefile"
    corefile.write_text(
        f".:53 {{\n bind {HOST_ADDRESS}\n errors\n kubernetes {DOMAIN} {{\n"
        f"  kubeconfig {kubeconfig('dns')}\n }}\n}}\n"
    )
    processes.start("dns", [str(find_programs() / "dns"), "-conf", str(corefile)])


def wait_for_api() -> None:
    """Return when the API server says that it is ready."""
    context = ssl.create_default_context(cafile=str(CERTIFICATES / "ca.crt"))

    def is_ready() -> bool:
        try:
            with urllib.request.urlopen(f"{API}/readyz", context=context, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            if processes.running("kube-apiserver") is None:
                raise RuntimeError(f"kube-apiserver ended:\n{processes.log_end('kube-apiserver')}") from None
            return False

    processes.wait_for(is_ready, "the API server is not ready", seconds=READY_SECONDS_MAX)


def _start(name: str, flags: dict[str, object]) -> None:
    processes.start(
        name, [str(find_programs() / name), *(f"--{flag}={value}" for flag, value in flags.items())]
    )
