"""nftables in this process, through libnftables: no program is started for it.

A context speaks to the network namespace of the thread that made it, for good; it is used by one thread.
Commands are texts of nft(8), and each call is one transaction: all of it holds afterwards, or nothing.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

_LIBRARY = "libnftables.so.1"
# NFT_CTX_OUTPUT_JSON and NFT_CTX_OUTPUT_TERSE.
_JSON, _TERSE = 1 << 4, 1 << 11
_NOTHING = '{"nftables": []}'


class NftError(Exception):
    """The library is missing, or nftables refused the commands; the text is its own."""


class Nft:
    """Raises NftError if this machine has no libnftables."""

    def __init__(self) -> None:
        self._library = _load()
        self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """What they print. NftError names the first lines of what was wrong."""
        code = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        printed = self._library.nft_ctx_get_output_buffer(self._context)
        problem = self._library.nft_ctx_get_error_buffer(self._context)
        if code != 0:
            raise NftError(problem.decode(errors="replace").strip()[:1000] or "it does not say why")
        return str(printed.decode(errors="replace"))

    def read(self, commands: str, *, terse: bool = False) -> list[dict[str, Any]]:
        """What listing commands print, as libnftables-json(5) has it; `terse` without sets' elements."""
        self._library.nft_ctx_output_set_flags(self._context, _JSON | (_TERSE if terse else 0))
        try:
            return list(json.loads(self.run(commands) or _NOTHING)["nftables"])
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)

    def close(self) -> None:
        """Safe twice."""
        if self._context.value:
            self._library.nft_ctx_free(self._context)
            self._context = ctypes.c_void_p(None)


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise NftError(f"cannot load {_LIBRARY}: install the package nftables") from error
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    library.nft_ctx_new.restype, library.nft_ctx_new.argtypes = pointer, [ctypes.c_uint32]
    library.nft_ctx_free.restype, library.nft_ctx_free.argtypes = None, [pointer]
    library.nft_run_cmd_from_buffer.argtypes = [pointer, text]
    library.nft_ctx_output_set_flags.argtypes = [pointer, ctypes.c_uint]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [pointer]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype, getattr(library, name).argtypes = text, [pointer]
    return library
