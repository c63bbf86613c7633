"""The port `LogFolders`: one folder per pod beneath a root, named as a kubelet names it."""

from __future__ import annotations

import pathlib
import re
import shutil

from kci.kcilet import ports
from kci.kcilet.drivers.logs import rotation
from kci.kcilet.plan import identity
from kci.kit import tasks
from kci.kube import models

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,381}")


class Folders:
    def __init__(self, root: pathlib.Path) -> None:
        self._root = root

    def log_directory(self, pod: models.Pod) -> str:
        folder = identity.log_folder(pod)
        # The names are a user's API server's, which may say anything.
        if not _FOLDER.fullmatch(folder):
            raise ports.DriverError(f"cannot use {folder[:64]!r} as the name of a log folder")
        return str(self._root / folder)

    async def remove_log(self, log_path: str) -> None:
        await tasks.in_thread(_remove_log, pathlib.Path(log_path))

    async def remove_logs(self, pod_uid: models.PodUid) -> None:
        await tasks.in_thread(self._remove, pod_uid)

    async def list_pods(self) -> list[models.PodUid]:
        return await tasks.in_thread(self._list)

    def _remove(self, pod_uid: models.PodUid) -> None:
        # The UID alone finds the folder: of a pod that is gone the name may be unknown.
        for folder in self._folders():
            if _uid_of(folder) == pod_uid:
                try:
                    shutil.rmtree(folder)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise ports.DriverError(f"cannot remove the logs {folder}: {error}") from error

    def _list(self) -> list[models.PodUid]:
        return [_uid_of(folder) for folder in self._folders()]

    def _folders(self) -> list[pathlib.Path]:
        if not self._root.is_dir():
            return []
        return [entry for entry in self._root.iterdir() if entry.name.count("_") == 2 and entry.is_dir()]


def _remove_log(path: pathlib.Path) -> None:
    try:
        for name in [*rotation.list_put_aside(path), path.name]:
            path.with_name(name).unlink(missing_ok=True)
    except FileNotFoundError:
        # There is no folder.
        return
    except OSError as error:
        raise ports.DriverError(f"cannot remove the log {path}: {error.strerror}") from error


def _uid_of(folder: pathlib.Path) -> models.PodUid:
    return models.PodUid(folder.name.rpartition("_")[2])
