import aiohttp.test_utils
import pytest

from kci.stack.images import layout, oci, registry

IMAGE = oci.build([oci.file("hello", b"world")], oci.Process(), architecture="amd64")


@pytest.fixture
async def client(tmp_path):
    store = layout.Layout(tmp_path)
    store.add("docker.io/library/tool:latest", IMAGE, source="test")
    store.add("registry.local/tool:1", IMAGE, source="test")
    async with aiohttp.test_utils.TestClient(
        aiohttp.test_utils.TestServer(registry.application(store))
    ) as client:
        yield client


async def test_it_says_that_it_is_a_registry(client):
    assert (await client.get("/v2/")).status == 200


@pytest.mark.parametrize("reference", ["latest", IMAGE.digest])
async def test_a_manifest_is_found_by_tag_and_by_digest_in_the_namespace_asked_for(client, reference):
    answer = await client.get(f"/v2/library/tool/manifests/{reference}?ns=docker.io")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == oci.MANIFEST_TYPE
    assert answer.headers["Docker-Content-Digest"] == IMAGE.digest
    assert await answer.read() == IMAGE.manifest.content


async def test_head_answers_as_get_does_without_the_body(client):
    answer = await client.head("/v2/library/tool/manifests/latest?ns=docker.io")
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(IMAGE.manifest.content)))


async def test_without_a_namespace_our_own_host_is_meant(client):
    assert (await client.get("/v2/tool/manifests/1")).status == 200
    assert (await client.get("/v2/library/tool/manifests/latest")).status == 404


async def test_an_unknown_image_is_refused_in_the_registrys_own_words(client):
    answer = await client.get("/v2/library/tool/manifests/absent?ns=docker.io")
    assert answer.status == 404
    assert (await answer.json())["errors"][0]["code"] == "MANIFEST_UNKNOWN"


async def test_blobs_are_served_by_digest(client):
    for blob in IMAGE.blobs:
        answer = await client.get(f"/v2/library/tool/blobs/{blob.digest}?ns=docker.io")
        assert await answer.read() == blob.content
    assert (await client.get("/v2/library/tool/blobs/sha256:" + "0" * 64)).status == 404


async def test_nothing_can_be_pushed(client):
    assert (await client.put("/v2/library/tool/manifests/latest", data=b"{}")).status == 405
