"""Write the image of the virtual node as an OCI archive, and its bill of materials beside it.

    python scripts/build_image.py [--output DIR]

The same commit and the same package versions give the same bytes. SOURCE_DATE_EPOCH (seconds) replaces the
last commit's time as what the image says of its age.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import subprocess
import sys

import kci
from kci.kit import environment, errors, files
from kci.stack.images import archive, catalogue, oci, virtualkubelet

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
GIT_TIMEOUT_S = 30


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the image of the virtual node as an OCI archive.")
    parser.add_argument("--output", type=pathlib.Path, default=REPOSITORY / "dist", metavar="DIR")
    output = parser.parse_args().output
    architecture = catalogue.architecture()
    try:
        built = virtualkubelet.build(
            architecture=architecture, created=created(), revision=_git("rev-parse", "HEAD")
        )
    except errors.UserError as error:
        print(error, file=sys.stderr)
        return 1
    stem = f"{virtualkubelet.NAME}-{kci.__version__}-linux-{architecture}"
    output.mkdir(parents=True, exist_ok=True)
    files.write_atomic(
        output / f"{stem}.tar", archive.archive(built.image, virtualkubelet.REFERENCES), mode=0o644
    )
    files.write_atomic(output / f"{stem}.spdx.json", built.sbom, mode=0o644)
    print(output / f"{stem}.tar", built.image.digest)
    print(output / f"{stem}.spdx.json")
    return 0


def created() -> str:
    """What the image says of its age, so that the same commit always says the same."""
    seconds = environment.read().get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct")
    if not seconds:
        return oci.EPOCH
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _git(*arguments: str) -> str:
    """What git says of this checkout; nothing where it is none."""
    command = ["git", "-C", str(REPOSITORY), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIT_TIMEOUT_S)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
