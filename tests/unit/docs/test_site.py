"""The docs site is built strictly, has all pages in its menu, and loads nothing from elsewhere."""

import html.parser
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest
import site_hooks
from mkdocs.exceptions import PluginError

from kci.kit import environment

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
# What a browser fetches without being asked.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}
_URL = re.compile(r"url\(\s*['\"]?([^)'\"]+)")


class _Fetched(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        address = dict(attrs).get(FETCHED.get(tag, ""))
        if address and dict(attrs).get("rel") not in {"prev", "next", "canonical"}:
            self.found.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**environment.read(), "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built_and_every_asset_lies_in_the_site(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    fetched = 0
    for page in pages:
        parser = _Fetched()
        parser.feed(page.read_text())
        for address in parser.found:
            parts = urllib.parse.urlsplit(address)
            assert not parts.scheme, f"{page.name} loads {address}"
            assert not parts.netloc, f"{page.name} loads {address}"
            # The page of errors has no place of its own, so it counts from the root.
            root = site if address.startswith("/") else page.parent
            assert (root / parts.path.lstrip("/")).exists(), (
                f"{page.name} loads {address}, which is not there"
            )
            fetched += 1
    assert fetched > 100


def test_styles_load_nothing_from_elsewhere(site):
    for sheet in site.rglob("*.css"):
        for address in _URL.findall(sheet.read_text()):
            assert address.startswith(("data:", "#")) or not urllib.parse.urlsplit(address).netloc, sheet.name


def test_no_page_has_what_the_themes_script_would_fetch_a_program_for(site):
    """Mermaid and mathematics come from a network of others."""
    for page in site.rglob("*.html"):
        assert not re.search(r'class="(mermaid|arithmatex)', page.read_text()), page.name


@pytest.mark.parametrize(
    ("at", "link", "becomes"),
    [
        ("docs/a.md", "[b](how-to/dns.md#x)", "[b](how-to/dns.md#x)"),
        ("docs/how-to/dns.md", "[the form](../../deploy/guide)", "the form (`deploy/guide`)"),
        ("docs/how-to/dns.md", "[deploy/guide](../../deploy/guide)", "`deploy/guide`"),
        ("docs/operations.md", "[changes](../CHANGELOG.md)", "[changes](CHANGELOG.md)"),
        ("docs/how-to/dns.md", "[changes](../../CHANGELOG.md)", "[changes](../CHANGELOG.md)"),
        ("CHANGELOG.md", "[how](docs/how-to/dns.md)", "[how](how-to/dns.md)"),
        ("docs/a.md", "[out](mailto:x)", "[out](mailto:x)"),
        ("docs/a.md", "![drawing](assets/exec.svg)", "![drawing](assets/exec.svg)"),
    ],
)
def test_a_link_leads_to_the_same_on_the_site_as_in_the_repository(at, link, becomes):
    assert site_hooks.rewrite(link, at) == becomes


def test_a_link_to_what_is_not_there_ends_the_build():
    with pytest.raises(PluginError, match=r"docs/nothing\.md, which is not there"):
        site_hooks.rewrite("[x](nothing.md)", "docs/a.md")
