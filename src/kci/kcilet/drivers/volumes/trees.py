"""Removing folders that a container may have filled."""

from __future__ import annotations

import os
import pathlib
import uuid

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: pathlib.Path) -> None:
    """Remove a folder and all in it, following no link; safe without it.

    Deeper folders are lifted to the top before they are emptied, so that a tree of any depth takes
    neither a deep stack nor many descriptors: a container can make one of ten thousand levels.
    """
    try:
        top = os.open(path, _OPEN)
    except FileNotFoundError:
        return
    try:
        prefix = f"..removing-{uuid.uuid4().hex}-"
        waiting = _remove_files(top)
        lifted = 0
        while waiting:
            name = waiting.pop()
            folder = os.open(name, _OPEN, dir_fd=top)
            try:
                for inner in _remove_files(folder):
                    lifted += 1
                    os.rename(inner, f"{prefix}{lifted}", src_dir_fd=folder, dst_dir_fd=top)
                    waiting.append(f"{prefix}{lifted}")
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    path.rmdir()


def _remove_files(folder: int) -> list[str]:
    """Remove what is no folder, and return the folders."""
    folders = []
    for name in os.listdir(folder):
        try:
            os.unlink(name, dir_fd=folder)
        except IsADirectoryError:
            folders.append(name)
    return folders
