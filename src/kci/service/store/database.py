"""Opening the database, and running work on it.

One thread owns all connections: SQLite has one writer anyway, and the event loop never waits for a disk.
The file is never started empty over a damaged or a lost one, nor as it was before changes that were
acknowledged: what the store no longer wants ends at the machine. A lock file beside the database keeps a
second service away, and remembers how many changes were made; the database counts them, too, and after a
loss (a damaged end of its log, an old copy) it has fewer. It also remembers with how many the database file
began with an empty log: a file from before beside the log of later changes would be a mixture that nothing
else shows. A new database gets its name only once it is whole.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import alembic.command
import alembic.config
import alembic.migration
import alembic.script
import alembic.util
import sqlalchemy as sa

from kci.kit import crashpoints, secret
from kci.service.store import checksums, errors, schema, sealing

T = TypeVar("T")

_MAX_WAITING = 1000
_MADE = b"made\n"
_COUNT = b"%020d\n"
_HEADER = b"SQLite format 3\0"
_KEY_CHECK = "key-check"
_CHANGES = "changes"
_SCHEMA = "schema"
_ID = "id"
_BUSY_TIMEOUT_S = 5.0
# What the disk or the file system says; all else that goes wrong at the start is in the file itself.
_NOT_DAMAGE = ("SQLITE_IOERR", "SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_BUSY")


@dataclasses.dataclass(frozen=True)
class Session:
    """One transaction, and the key for what is sealed in it."""

    connection: sa.Connection
    sealer: sealing.Sealer


class Database:
    """An open database. Made by `open_database`, ended by `close`."""

    def __init__(self, engine: sa.Engine, sealer: sealing.Sealer, lock: int) -> None:
        self._engine = engine
        self._sealer = sealer
        self._lock = lock
        self._waiting = 0
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    async def run(self, work: Callable[[Session], T]) -> T:
        """Run work in one transaction on the store's thread: all of it is durable on return, or nothing
        of it happened. Results come back in the order in which the transactions were committed.
        """
        if self._waiting >= _MAX_WAITING:
            raise errors.StoreBusyError("cannot take more work: the database is behind")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
        finally:
            self._waiting -= 1

    def _run(self, work: Callable[[Session], T]) -> T:
        crashpoints.reached("store.transaction.before")
        try:
            with self._engine.begin() as connection:
                before = _rows_changed(connection)
                result = work(Session(connection, self._sealer))
                changes = _count_change(connection) if _rows_changed(connection) != before else None
                crashpoints.reached("store.commit.before")
            crashpoints.reached("store.commit.after")
        except sa.exc.DatabaseError as error:
            # `orig` alone: SQLAlchemy's own text carries the statement's values.
            raise errors.StoreError(f"cannot use the database: {_one_line(error.orig or error)}") from None
        if changes is not None:
            _remember(self._lock, changes)
        return result

    def close(self) -> None:
        """Waits for the work at hand."""
        self._thread.shutdown()
        self._engine.dispose()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_database(path: pathlib.Path, key: bytes) -> Database:
    """Open the database, make it if it never was, bring its schema up to date. Blocks; raises
    UnusableStoreError with one sentence if that cannot be done.
    """
    sealer = sealing.Sealer(key)
    try:
        lock = _take_lock(path)
        try:
            with _readable(path):
                if not path.exists():
                    _make(path, lock, sealer)
                _check_header(path)
                _check_log(path, lock)
                engine = _engine(path)
                _check_whole(engine)
                _migrate(engine, path)
                _check_key(engine, sealer, path)
                _check_rows(engine)
                changes = _check_changes(engine, lock, path)
                is_emptied = _empty_log(engine)
            _remember(lock, changes)
            if is_emptied:
                os.pwrite(lock, _COUNT % changes, len(_MADE + _COUNT % 0))
            os.fsync(lock)
            return Database(engine, sealer, lock)
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise errors.UnusableStoreError(
            f"cannot use the database {path}: {error.strerror or error}"
        ) from error


def get_id(session: Session) -> str:
    """Made with the store; a copy of it has the same."""
    return (_get_fact(session.connection, _ID) or b"").decode()


def _take_lock(path: pathlib.Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise errors.UnusableStoreError(
            f"cannot use the database {path}: another service has it open"
        ) from error
    return lock


def _make(path: pathlib.Path, lock: int, sealer: sealing.Sealer) -> None:
    leftovers = [name for name in (f"{path.name}-wal", f"{path.name}-shm") if path.with_name(name).exists()]
    if os.fstat(lock).st_size or leftovers:
        raise errors.UnusableStoreError(
            f"cannot find the database {path}, which was there before: put it back from a backup,"
            f" or remove {_lock_path(path)}{''.join(f' and {name}' for name in leftovers)} to start anew"
        )
    fresh = path.with_name(f".{path.name}.new")
    for name in (fresh.name, f"{fresh.name}-wal", f"{fresh.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    engine = _engine(fresh)
    _migrate(engine, fresh)
    with engine.begin() as connection:
        sealed = sealer.seal(secret.Secret(_KEY_CHECK), owner=_KEY_CHECK)
        _set_fact(connection, _KEY_CHECK, sealed)
    engine.dispose()
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remember(lock: int, changes: int) -> None:
    """After the commit, so never ahead of the database; and without waiting for the disk, as a loss of
    power that takes this away only leaves an older count. A failure makes the safeguard older as well.
    """
    with contextlib.suppress(OSError):
        os.pwrite(lock, _MADE + _COUNT % changes, 0)


def _remembered(lock: int) -> tuple[int, int]:
    """How many changes were made, and how many were in the database file when its log was empty; 0 where the
    file does not say.
    """
    lines = os.pread(lock, 64, 0).removeprefix(_MADE).split()
    made, begun, *_ = *(int(line) if line.isdigit() else 0 for line in lines), 0, 0
    return made, begun


def _engine(path: pathlib.Path) -> sa.Engine:
    engine = sa.create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": _BUSY_TIMEOUT_S, "check_same_thread": False},
        poolclass=sa.pool.StaticPool,
        hide_parameters=True,
    )

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver's own transactions leave out DDL; ours begin in `_on_begin`.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        # FULL: an acknowledged write survives a loss of power; NORMAL could lose it.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        checksums.install(connection)

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
    """Damage shows in many ways, even as a text that cannot be decoded; here it gets one."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, sqlite3.Error, alembic.util.CommandError, ValueError) as error:
        cause = getattr(error, "orig", None) or error
        if getattr(cause, "sqlite_errorname", "").startswith(_NOT_DAMAGE):
            raise errors.UnusableStoreError(f"cannot use the database {path}: {_one_line(cause)}") from None
        raise errors.UnusableStoreError(
            f"cannot read the database {path} ({_one_line(cause)}): put back a backup;"
            " it is not started empty"
        ) from None


def _check_header(path: pathlib.Path) -> None:
    """Before SQLite opens it: to SQLite an empty file is a new database."""
    with path.open("rb") as file:
        if file.read(len(_HEADER)) != _HEADER:
            raise ValueError("it is empty or no SQLite file")


def _check_log(path: pathlib.Path, lock: int) -> None:
    """Whether the log beside the file goes on from it: SQLite would apply any. Read without a change to
    either, so that what is refused can still be put right.
    """
    log = path.with_name(f"{path.name}-wal")
    if not log.exists() or not log.stat().st_size:
        return
    _, begun = _remembered(lock)
    try:
        in_file = _read_changes(path, "immutable=1")
    except (sqlite3.Error, ValueError):
        # A crash while the log was being written back: the log mends it.
        return
    if not begun <= in_file <= _read_changes(path, "mode=ro"):
        raise errors.UnusableStoreError(
            f"cannot use the database {path}: {log.name} is not the log of this file, one of them is older;"
            " put back all files of one backup, or the file that was there before"
        )


def _read_changes(path: pathlib.Path, how: str) -> int:
    """`immutable=1` is the file alone, `mode=ro` with its log."""
    uri = f"file:{urllib.parse.quote(str(path))}?{how}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as connection:
        row = connection.execute("SELECT value FROM facts WHERE name = ?", (_CHANGES,)).fetchone()
    return int(row[0]) if row else 0


def _empty_log(engine: sa.Engine) -> bool:
    """Into the file; False if somebody reads the log right now."""
    with contextlib.closing(engine.raw_connection()) as pooled:
        driver = pooled.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        (is_busy, *_) = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy


def _check_whole(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        (verdict,) = connection.exec_driver_sql("PRAGMA integrity_check(1)").one()
        if verdict != "ok":
            raise ValueError(verdict)
        if not sa.inspect(connection).has_table("alembic_version"):
            raise ValueError("it has no tables of ours")


def _migrate(engine: sa.Engine, path: pathlib.Path) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", "kci.service.store:migrations")
    config.set_main_option("path_separator", "os")
    known = {step.revision for step in alembic.script.ScriptDirectory.from_config(config).walk_revisions()}
    with engine.connect() as connection:
        current = alembic.migration.MigrationContext.configure(connection).get_current_revision()
        connection.rollback()
        if current is not None and current not in known:
            raise errors.UnusableStoreError(
                f"cannot use the database {path}: its schema {current} is not known here;"
                " it was written by a newer version, so install that one"
            )
        if current is not None and current == max(known):
            if _get_fact(connection, _SCHEMA) != checksums.of_schema(connection):
                raise ValueError("its tables are not as they were made")
            return
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")
        _set_fact(connection, _SCHEMA, checksums.of_schema(connection))
        connection.commit()


def _check_key(engine: sa.Engine, sealer: sealing.Sealer, path: pathlib.Path) -> None:
    with engine.begin() as connection:
        sealed = _get_fact(connection, _KEY_CHECK)
    try:
        sealer.open(sealed or b"", owner=_KEY_CHECK)
    except sealing.SealError as error:
        raise errors.UnusableStoreError(
            f"cannot use the database {path}: it was sealed with another key; give the encryption key file"
            " that it was made with"
        ) from error


def _check_rows(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        if damaged := checksums.count_damaged(connection):
            raise ValueError(f"{damaged} container groups are not as they were written")


def _check_changes(engine: sa.Engine, lock: int, path: pathlib.Path) -> int:
    """The number of changes, with one more for this start: that shows that the file can be written."""
    with engine.connect() as connection:
        changes = _count_change(connection)
        remembered, _ = _remembered(lock)
        if changes <= remembered:
            raise errors.UnusableStoreError(
                f"cannot use the database {path}: its last {remembered - changes + 1} changes are lost;"
                f" put back the newest copy with its {path.name}-wal, or remove {_lock_path(path)} to go on"
                " without them, which ends what was created by them"
            )
        connection.commit()
    return changes


def _rows_changed(connection: sa.Connection) -> int:
    """Since the connection was opened."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver.total_changes


def _count_change(connection: sa.Connection) -> int:
    count = int(_get_fact(connection, _CHANGES) or b"0") + 1
    _set_fact(connection, _CHANGES, b"%d" % count)
    return count


def _get_fact(connection: sa.Connection, name: str) -> bytes | None:
    return connection.scalar(sa.select(schema.facts.c.value).where(schema.facts.c.name == name))


def _set_fact(connection: sa.Connection, name: str, value: bytes) -> None:
    known = schema.facts.c.name == name
    if not connection.execute(schema.facts.update().where(known).values(value=value)).rowcount:
        connection.execute(schema.facts.insert().values(name=name, value=value))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _lock_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.lock")
