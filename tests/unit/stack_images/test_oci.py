import io
import tarfile

import pytest

from kci.stack.images import layout, oci

ENTRIES = [
    oci.file("bin/tool", b"program", mode=0o755),
    oci.link("bin/alias", "tool"),
    oci.directory("tmp", mode=0o1777),
    oci.file("etc/deep/er/name", "text", owner=101),
]
PROCESS = oci.Process(command=("tool",), ports=("80/tcp",))


def build(entries=tuple(ENTRIES)):
    return oci.build(entries, PROCESS, architecture="amd64")


def test_equal_entries_give_equal_bytes_in_whatever_order_they_come():
    assert build() == build(reversed(ENTRIES))


def test_any_change_gives_another_digest():
    assert build().digest != build([*ENTRIES, oci.file("more", b"")]).digest


def test_a_layer_holds_parents_before_what_lies_in_them_and_no_time():
    with tarfile.open(fileobj=io.BytesIO(build().layer.content)) as archive:
        members = archive.getmembers()
    names = [member.name for member in members]
    assert names == [
        "bin", "bin/alias", "bin/tool", "etc", "etc/deep", "etc/deep/er", "etc/deep/er/name", "tmp",
    ]  # fmt: skip
    assert {member.mtime for member in members} == {0}
    by_name = {member.name: member for member in members}
    assert by_name["bin/alias"].linkname == "tool"
    assert (by_name["etc/deep/er/name"].uid, by_name["etc"].uid) == (101, 0)
    assert by_name["tmp"].mode == 0o1777


def test_a_path_named_twice_is_refused():
    with pytest.raises(ValueError, match="/tmp twice"):
        build([*ENTRIES, oci.directory("/tmp/")])


def test_a_layout_gives_back_the_image_it_was_given(tmp_path):
    store = layout.Layout(tmp_path)
    assert store.references() == {}
    store.add("registry.local/tool:1", build(), source="here")
    again = layout.Layout(tmp_path)
    assert again.read("registry.local/tool:1") == build()
    assert again.source("registry.local/tool:1") == "here"
    assert again.read("registry.local/tool:2") is None


def test_a_layout_that_lost_a_blob_has_no_image(tmp_path):
    store = layout.Layout(tmp_path)
    store.add("registry.local/tool:1", build(), source="here")
    store.blob_path(build().config.digest).unlink()
    assert store.read("registry.local/tool:1") is None


@pytest.mark.parametrize("digest", ["", "sha256:../../index.json", "latest"])
def test_a_text_that_is_no_digest_names_no_file(tmp_path, digest):
    store = layout.Layout(tmp_path)
    store.add("registry.local/tool:1", build(), source="here")
    assert store.blob_path(digest) is None
