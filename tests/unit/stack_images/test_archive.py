import io
import json
import pathlib
import re
import tarfile

from kci.stack.images import archive, oci, sbom, virtualkubelet

IMAGE = oci.build([oci.file("version", "1")], oci.Process(user="7:7"), architecture="amd64")
NAMES = ("a.example/tool:1", "b.example/tool:1")


def members(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as file:
        return {one.name: file.extractfile(one).read() for one in file.getmembers() if one.isfile()}


def test_an_archive_is_an_image_layout_with_the_image_under_each_name():
    found = members(archive.archive(IMAGE, NAMES))
    index = json.loads(found.pop("index.json"))
    assert json.loads(found.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    assert {one["digest"] for one in index["manifests"]} == {IMAGE.digest}
    named = [one["annotations"]["org.opencontainers.image.ref.name"] for one in index["manifests"]]
    assert named == list(NAMES)
    blobs = {f"sha256:{path.removeprefix('blobs/sha256/')}": content for path, content in found.items()}
    assert blobs == {blob.digest: blob.content for blob in IMAGE.blobs}


def test_the_same_image_gives_the_same_archive():
    assert archive.archive(IMAGE, NAMES) == archive.archive(IMAGE, NAMES)


def test_a_bill_of_materials_says_what_the_first_is_made_of():
    components = [
        sbom.Component("tool", "1", "pkg:generic/tool@1"),
        sbom.Component("lib+c", "2", "pkg:deb/debian/lib%2Bc@2", "ab"),
    ]
    document = json.loads(sbom.spdx("tool", components, created=oci.EPOCH))
    assert document["spdxVersion"] == "SPDX-2.3"
    assert document["creationInfo"]["created"] == oci.EPOCH
    first, second = (one["SPDXID"] for one in document["packages"])
    assert second == "SPDXRef-deb-lib-c"
    assert document["packages"][1]["checksums"] == [{"algorithm": "SHA256", "checksumValue": "ab"}]
    relations = [
        (one["spdxElementId"], one["relationshipType"], one["relatedSpdxElement"])
        for one in document["relationships"]
    ]
    assert relations == [("SPDXRef-DOCUMENT", "DESCRIBES", first), (first, "CONTAINS", second)]


def test_other_materials_make_another_document():
    def namespace(version):
        component = sbom.Component("tool", version, f"pkg:generic/tool@{version}")
        return json.loads(sbom.spdx("tool", [component], created=oci.EPOCH))["documentNamespace"]

    assert namespace("1") != namespace("2")


def test_the_containerfile_makes_the_same_in_function():
    text = (pathlib.Path(__file__).resolve().parents[3] / "Containerfile").read_text()
    said = dict(re.findall(r"^(USER|WORKDIR|ENTRYPOINT|EXPOSE) (.*)$", text, re.MULTILINE))
    assert said == {
        "USER": f"{virtualkubelet.USER_ID}:{virtualkubelet.USER_ID}",
        "WORKDIR": f"/{virtualkubelet.HOME}",
        "ENTRYPOINT": f'["{virtualkubelet.NAME}"]',
        "EXPOSE": "10250",
    }
    assert "--require-hashes" in text
    assert "--requirement requirements.lock" in text
