"""The port `Served`: one line in a file of its own, which an operator may remove."""

from __future__ import annotations

import pathlib
import re

from kci.kcilet import ports
from kci.kit import files, tasks

_LINE = re.compile(r"([0-9a-f]{1,64})\n")


class ServedFile:
    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    @property
    def place(self) -> str:
        return str(self._path)

    async def get_store(self) -> str:
        return await tasks.in_thread(self._get)

    async def ensure_store(self, store_id: str) -> None:
        await tasks.in_thread(self._ensure, store_id)

    def _get(self) -> str:
        try:
            text = self._path.read_text(encoding="ascii")
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            raise ports.DriverError(f"cannot read {self._path}: {error}") from error
        if not (found := _LINE.fullmatch(text)):
            raise ports.DriverError(
                f"cannot read {self._path}, which says which store this machine serves: remove it to serve"
                " the store that asks next, which ends every pod that it does not know"
            )
        return found[1]

    def _ensure(self, store_id: str) -> None:
        if self._get() == store_id:
            return
        try:
            files.write_atomic(self._path, f"{store_id}\n")
        except OSError as error:
            raise ports.DriverError(f"cannot write {self._path}: {error}") from error
