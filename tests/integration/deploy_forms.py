"""The chart and the Kustomize base, rendered for the same values, as objects that can be compared."""

import json
import pathlib
import shutil
import subprocess
import sys

import needs
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
KUBECTL = pathlib.Path(sys.executable).parent / "kubectl"
TIMEOUT_S = 120

# By the chart's names. What Kustomize has as components stands under their names in COMPONENTS.
NEEDED = {
    "region": "cn-beijing-6",
    "clusterId": "my-cluster",
    "credentials": {"existingSecret": "virtual-kubelet-keys"},
}
FULL = {
    **NEEDED,
    "nodename": "burst-1",
    "clusterDNS": ["10.96.0.10", "10.96.0.11"],
    "virtualNodeDNS": ["198.18.0.2"],
    "clusterDomain": "example.local",
    "disableTaint": True,
    "enableNodeLease": False,
    "subnetId": "subnet-1",
    "securityGroupIds": ["sg-1", "sg-2"],
    "kubeProxy": True,
    "clusterServer": "10.0.0.1:6443",
}
IDENTITIES = {
    "guide": "../identity/guide",
    "leastPrivilege": "../../least-privilege/node-identity",
    "serviceAccount": "../../least-privilege/service-account",
}


def helm(*arguments, check=True):
    return subprocess.run(
        [needs.helm(), *arguments], capture_output=True, text=True, check=check, timeout=TIMEOUT_S
    )


def kubectl(*arguments, check=True, text=None):
    done = subprocess.run(
        [KUBECTL, *arguments], input=text, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def render_chart(values, folder, *, check=True):
    """What `helm template` says to a file with these values."""
    path = folder / "values.json"
    path.write_text(json.dumps(values))
    command = [
        "template",
        "virtual-kubelet",
        DEPLOY / "chart",
        "--namespace",
        "kube-system",
        "--values",
        path,
    ]
    return helm(*map(str, command), check=check)


def render_kustomize(values, folder):
    """The example of the repository with its settings replaced, as a user copies it."""
    for part in ("kustomize", "least-privilege"):
        shutil.copytree(DEPLOY / part, folder / part, dirs_exist_ok=True)
    root = folder / "kustomize"
    settings_path, kustomization_path = (
        root / "example" / f"{name}.yaml" for name in ("settings", "kustomization")
    )
    settings = yaml.safe_load(settings_path.read_text())
    settings["data"] |= {key: _text(value) for key, value in values.items() if key in settings["data"]}
    settings["data"]["temporaryConfigMap"] = values["credentials"].get("temporaryConfigMap", "")
    settings_path.write_text(yaml.safe_dump(settings))
    kustomization = yaml.safe_load(kustomization_path.read_text())
    kustomization["components"] = [
        "../settings",
        IDENTITIES[values.get("identity", "leastPrivilege")],
        *(["../temporary-keys"] if settings["data"]["temporaryConfigMap"] else []),
        *(["../request-internal"] if values.get("requestInternal") else []),
    ]
    kustomization_path.write_text(yaml.safe_dump(kustomization))
    return kubectl("kustomize", str(root / "example")).stdout


def objects(text):
    """The objects of a stream of documents, by kind, namespace and name; what says nothing left out."""
    found = {}
    for one in filter(None, yaml.safe_load_all(text)):
        metadata = one["metadata"]
        key = (one["kind"], metadata.get("namespace", ""), metadata["name"])
        assert key not in found, f"{key} is there twice"
        found[key] = _normal(one) if one["kind"] == "Deployment" else one
    return found


def container(text):
    (deployment,) = (one for (kind, _, _), one in objects(text).items() if kind == "Deployment")
    return deployment["spec"]["template"]["spec"]["containers"][0]


def _normal(deployment):
    """An empty flag or variable is as good as none, but where presence counts; order is nothing."""
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    only["args"] = sorted(one for one in only["args"] if not one.endswith("="))
    only["env"] = sorted(
        (one for one in only["env"] if one.get("value") != ""), key=lambda variable: variable["name"]
    )
    return deployment


def _text(value):
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else value
