from kci.stack.images import catalogue, layout, oci, packages


class Workshop:
    """A recipe that counts how often it builds, from a source that a test can change."""

    def __init__(self, *, is_followed=False):
        self.is_followed = is_followed
        self.version = "1.0"
        self.builds = 0
        self.told = []

    def recipe(self):
        references = ("a.example/tool:1", "b.example/tool:1")
        return catalogue.Recipe("tool", references, lambda: self.version, self._build, self.is_followed)

    def _build(self, architecture):
        self.builds += 1
        return oci.build([oci.file("version", self.version)], oci.Process(), architecture=architecture)

    def ensure(self, store, cache):
        catalogue.ensure_store(store, cache, self.told.append, [self.recipe()])
        return layout.Layout(store)


def test_a_store_gets_the_image_under_all_its_names(tmp_path):
    workshop = Workshop()
    store = workshop.ensure(tmp_path / "store", tmp_path / "cache")
    digests = {found.digest for found in store.references().values()}
    assert len(store.references()) == 2
    assert len(digests) == 1
    assert workshop.told == ["building the image tool (1.0)"]


def test_a_second_store_takes_the_image_from_the_cache(tmp_path):
    workshop = Workshop()
    first = workshop.ensure(tmp_path / "one", tmp_path / "cache")
    second = workshop.ensure(tmp_path / "two", tmp_path / "cache")
    assert first.references() == second.references()
    assert workshop.builds == 1


def test_a_store_keeps_its_image_when_a_newer_package_comes_out(tmp_path):
    workshop = Workshop()
    before = workshop.ensure(tmp_path / "store", tmp_path / "cache").references()
    workshop.version = "1.1"
    assert workshop.ensure(tmp_path / "store", tmp_path / "cache").references() == before


def test_a_store_follows_an_image_of_our_own_code(tmp_path):
    workshop = Workshop(is_followed=True)
    before = workshop.ensure(tmp_path / "store", tmp_path / "cache").references()
    assert workshop.ensure(tmp_path / "store", tmp_path / "cache").references() == before
    workshop.version = "1.1"
    assert workshop.ensure(tmp_path / "store", tmp_path / "cache").references() != before
    assert workshop.builds == 2


def test_a_store_holds_nothing_of_images_that_were_replaced(tmp_path):
    workshop = Workshop(is_followed=True)
    other = oci.build([oci.file("other", "1")], oci.Process(), architecture="amd64")
    layout.Layout(tmp_path / "store").add("c.example/other:1", other, source="other")
    for version in ("1.0", "1.1", "1.2"):
        workshop.version = version
        store = workshop.ensure(tmp_path / "store", tmp_path / "cache")
    images = [store.read(name) for name in store.references()]
    assert len(images) == 3
    named = {blob.digest.removeprefix("sha256:") for image in images for blob in image.blobs}
    assert {path.name for path in (tmp_path / "store" / "blobs" / "sha256").iterdir()} == named


def test_the_nodes_image_is_only_for_who_asks_for_it():
    assert catalogue.NODE not in catalogue.recipes(public_is_local=True)
    assert catalogue.NODE in catalogue.recipes(public_is_local=False, node_image=True)


def test_a_new_store_gets_the_newer_package_and_the_cache_forgets_the_old_one(tmp_path):
    workshop = Workshop()
    workshop.ensure(tmp_path / "one", tmp_path / "cache")
    workshop.version = "1.1"
    workshop.ensure(tmp_path / "two", tmp_path / "cache")
    assert workshop.builds == 2
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 1


def test_an_image_of_an_older_recipe_is_built_anew(tmp_path):
    workshop = Workshop()
    old = oci.build([], oci.Process(), architecture="amd64")
    for reference in workshop.recipe().references:
        layout.Layout(tmp_path / "store").add(reference, old, source="recipe 0: 1.0")
    store = workshop.ensure(tmp_path / "store", tmp_path / "cache")
    assert old.digest not in {found.digest for found in store.references().values()}


def test_the_libraries_of_a_package_are_the_first_alternatives_that_are_libraries():
    depends = "libc6 (>= 2.34), libssl3t64 | libssl3, zlib1g (>= 1:1.1.4), iproute2, nginx-common (>= 1.22)"
    assert packages.libraries(depends) == ["libc6", "libssl3t64", "zlib1g"]
