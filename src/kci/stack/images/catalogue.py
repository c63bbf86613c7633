"""Which images a stack serves, and how its store comes to hold them.

Built images are kept in a cache that all stacks of this machine share, one folder for each image and
what it was built from (package versions, recipe), so a second stack only copies blobs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import pathlib
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Sequence

from kci.kit import errors
from kci.stack.images import busybox, layout, nginx, oci, packages, pause, virtualkubelet

PAUSE = "registry.local/pause:1"
# Registry hosts the store answers for; docker.io only where the public registries do not answer.
OWN_HOST = "registry.local"
PUBLIC_HOST = "docker.io"
# Raise it when a recipe changes what it builds: stores and caches then build anew.
_RECIPE = 1
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One image: its names, what it is made from (a text that changes when that does), how."""

    name: str
    references: tuple[str, ...]
    source: Callable[[], str]
    build: Callable[[str], oci.Image]
    # Whether a store's image is replaced as soon as it would be built from something else.
    is_followed: bool = False


def _build_busybox(architecture: str) -> oci.Image:
    return busybox.build(busybox.program(), architecture=architecture)


def _build_nginx(architecture: str) -> oci.Image:
    return nginx.build(busybox.program(), architecture=architecture)


def _busybox_source() -> str:
    return "busybox " + hashlib.sha256(busybox.program()).hexdigest()[:16]


def _nginx_source() -> str:
    return f"nginx {packages.candidate(nginx.PACKAGE)}, {_busybox_source()}"


RECIPES = (
    Recipe("pause", (PAUSE,), lambda: "pause", pause.build),
    Recipe(
        "busybox",
        (f"{OWN_HOST}/busybox:latest", f"{PUBLIC_HOST}/library/busybox:latest"),
        _busybox_source,
        _build_busybox,
    ),
    Recipe(
        "nginx",
        (f"{OWN_HOST}/nginx:latest", f"{PUBLIC_HOST}/library/nginx:latest"),
        _nginx_source,
        _build_nginx,
    ),
)


# Only for who asks for it: it needs a package index. It holds our own code, so it follows it.
NODE = Recipe(
    virtualkubelet.NAME,
    virtualkubelet.REFERENCES,
    virtualkubelet.source,
    lambda architecture: virtualkubelet.build(architecture=architecture).image,
    is_followed=True,
)


def recipes(*, public_is_local: bool, node_image: bool = False) -> tuple[Recipe, ...]:
    """The images a stack needs: all if it answers for public registries, else only what containerd needs."""
    wanted = tuple(recipe for recipe in RECIPES if public_is_local or PAUSE in recipe.references)
    return (*wanted, *([NODE] if node_image else []))


def ensure_store(
    store_dir: pathlib.Path,
    cache_dir: pathlib.Path,
    progress: Progress,
    wanted: Sequence[Recipe] = RECIPES,
) -> None:
    """Make the store hold these images; what it holds already is left as it is, without asking apt.

    Blocking: run it in a thread. `progress` is told each image that has to be built. UserError where
    an image cannot be built, with the remedy; calling again goes on where it ended.
    """
    store = layout.Layout(store_dir)
    held = store.references()
    missing = [
        recipe
        for recipe in wanted
        if any(name not in held or not _is_current(recipe, store.source(name)) for name in recipe.references)
    ]
    if not missing:
        return
    with _locked(cache_dir):
        for recipe in missing:
            source = _source(recipe)
            image = _cached(recipe, source, cache_dir / "images", progress)
            for reference in recipe.references:
                store.add(reference, image, source=source)
        store.remove_superseded()


def architecture() -> str:
    """What images call this machine's architecture."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise errors.UserError(f"cannot build images for {machine}: x86_64 and aarch64 are known")
    return _ARCHITECTURES[machine]


def _source(recipe: Recipe) -> str:
    return f"recipe {_RECIPE}: {recipe.source()}"


def _is_current(recipe: Recipe, source: str) -> bool:
    return source == _source(recipe) if recipe.is_followed else source.startswith(f"recipe {_RECIPE}: ")


def _cached(recipe: Recipe, source: str, cache: pathlib.Path, progress: Progress) -> oci.Image:
    key = hashlib.sha256(source.encode()).hexdigest()[:16]
    folder = cache / f"{recipe.name}-{key}"
    kept = layout.Layout(folder).read(recipe.name)
    if kept is not None:
        return kept
    progress(f"building the image {recipe.name} ({re.sub('^recipe [0-9]+: ', '', source)})")
    image = recipe.build(architecture())
    layout.Layout(folder).add(recipe.name, image, source=source)
    for older in cache.glob(f"{recipe.name}-*"):
        if older != folder:
            shutil.rmtree(older)
    return image


@contextlib.contextmanager
def _locked(cache: pathlib.Path) -> Iterator[None]:
    """One builder on this machine at a time; the lock goes with the process if it dies."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "images.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
