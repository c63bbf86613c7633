"""What the docs site (mkdocs.yml) does beyond mkdocs: links that leave docs/, and pages from outside of it.

In the repository a page may link to any file. On the site such a link becomes the file's path in words, if
the file is there; if not, the build fails. CHANGELOG.md and CONTRIBUTING.md are pages of the site as well.
The menu's entry `decisions/` lists what the folder has.
"""

from __future__ import annotations

import pathlib
import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
DOCS = "docs"
OUTSIDE_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
DECISIONS = "decisions/"

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
_SCHEME = re.compile(r"[a-z]+:")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav = _filled(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name in OUTSIDE_PAGES:
        files.append(File.generated(config, name, content=(REPOSITORY / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    uri = page.file.src_uri
    at = uri if uri in OUTSIDE_PAGES else f"{DOCS}/{uri}"
    parts = _FENCE.split(markdown)
    # Links in code are no links.
    return "".join(part if part.startswith("```") else rewrite(part, at) for part in parts)


def rewrite(markdown: str, at: str) -> str:
    """The text with its links as the site needs them; `at` is the page's path in the repository."""
    return _LINK.sub(lambda link: _link(link[1], link[2], at), markdown)


def _link(text: str, target: str, at: str) -> str:
    if _SCHEME.match(target) or target.startswith("#"):
        return f"[{text}]({target})"
    path, _, anchor = target.partition("#")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(at), path))
    if not (REPOSITORY / file).exists():
        raise PluginError(f"{at}: a link leads to {file}, which is not there")
    if file in OUTSIDE_PAGES or (file.startswith(f"{DOCS}/") and file.endswith(".md")):
        here = posixpath.dirname(at.removeprefix(f"{DOCS}/"))
        relative = posixpath.relpath(file.removeprefix(f"{DOCS}/"), here or ".")
        return f"[{text}]({relative}{'#' if anchor else ''}{anchor})"
    return f"`{file}`" if file in text else f"{text} (`{file}`)"


def _filled(nav: Any) -> Any:
    if isinstance(nav, list):
        return [_filled(entry) for entry in nav]
    if isinstance(nav, dict):
        return {title: _filled(entry) for title, entry in nav.items()}
    if nav == DECISIONS:
        folder = REPOSITORY / DOCS / DECISIONS
        records = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
        return [{"All": f"{DECISIONS}README.md"}, *(f"{DECISIONS}{path.name}" for path in records)]
    return nav
