"""Manifests of temporary keys in a real cluster."""

import pytest

from kci.kube import client as clients

NAMESPACE = "kube-system"


@pytest.fixture
async def applied(admin):
    """Applies a manifest as `kubectl apply` of `kci credentials issue` would; removes it at the end."""
    paths = set()

    async def apply(manifest):
        for item in manifest["items"]:
            base = "/api/v1" if item["apiVersion"] == "v1" else f"/apis/{item['apiVersion']}"
            plural = f"{item['kind'].lower()}s"
            path = f"{base}/namespaces/{NAMESPACE}/{plural}/{item['metadata']['name']}"
            paths.add(path)
            await admin.request(
                "PATCH",
                path,
                body=item,
                query={"fieldManager": "test", "force": "true"},
                content_type=clients.PatchType.APPLY.value,
            )

    yield apply
    for path in paths:
        await admin.request("DELETE", path)
