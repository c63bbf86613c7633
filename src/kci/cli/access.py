"""How the command reaches a KCI service: by the guide's variables, else as the operator of a stack here."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from kci.kit import environment, errors, secret
from kci.stack import layout, namespaces, record, settings

if TYPE_CHECKING:
    from kci.client import client

T = TypeVar("T")

StateDirOption = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--state-dir",
        readable=False,
        help="The state folder of the stack to ask. Default: what KCI_ACCESS_KEY, KCI_SECRET_KEY, "
        f"KCI_REGION and KCI_ENDPOINT say, else the stack in {settings.DEFAULT_STATE_DIR}.",
    ),
]
_NEEDED = ("KCI_ACCESS_KEY", "KCI_SECRET_KEY", "KCI_REGION", "KCI_ENDPOINT")


@dataclasses.dataclass(frozen=True)
class Account:
    """Whom to ask, and as whom."""

    endpoint: str
    region: str
    access_key: str
    secret_key: secret.Secret
    # Of the stack whose operator this is.
    state_dir: pathlib.Path | None = None


def ask(state_dir: pathlib.Path | None, question: Callable[[client.KciClient], Awaitable[T]]) -> T:
    """Run one command's calls. UserError in words if there is no service, or it refuses."""
    from kci.client import errors as client_errors  # what speaks HTTP takes long to import

    account = find(state_dir, environment.read())
    if account.state_dir is not None:
        enter_network(account.state_dir)

    async def work() -> T:
        async with _connected(account) as service:
            return await question(service)

    try:
        return asyncio.run(work())
    except client_errors.UnreachableError as error:
        raise errors.UserError(
            f"{error}; the service is {account.endpoint}: look at `kci status`, and call it from where it "
            "can be reached (of a stack in a network namespace: with --state-dir, or by `nsenter --net`)"
        ) from error
    except client_errors.KciError as error:
        raise errors.UserError(str(error)) from error


def find(state_dir: pathlib.Path | None, variables: Mapping[str, str]) -> Account:
    """UserError that names what is missing."""
    if state_dir is None and variables.get("KCI_ACCESS_KEY"):
        return _to_account(variables, "the environment")
    where = layout.Layout(state_dir or settings.DEFAULT_STATE_DIR)
    file = where.env_file
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        # Variables are not looked at where a stack is named.
        remedy = (
            f"give --state-dir, or set {', '.join(_NEEDED)}"
            if state_dir is None
            else "or give another --state-dir"
        )
        raise errors.UserError(
            f"cannot find a KCI service: {file} cannot be read ({error.strerror}); run `kci up`, {remedy}"
        ) from error
    values = {name: value for name, _, value in (line.partition("=") for line in lines)}
    return dataclasses.replace(_to_account(values, str(file)), state_dir=where.root)


def enter_network(state_dir: pathlib.Path) -> None:
    """Go where that stack's addresses are. Before the first thread of this process."""
    state = record.read_state(layout.Layout(state_dir))
    if state is not None:
        namespaces.enter_network_of_stack(state)


def _to_account(values: Mapping[str, str], where: str) -> Account:
    missing = [name for name in _NEEDED if not values.get(name)]
    if missing:
        raise errors.UserError(f"cannot call KCI: {', '.join(missing)} missing in {where}")
    access_key, secret_key, region, endpoint = (values[name] for name in _NEEDED)
    return Account(endpoint, region, access_key, secret.Secret(secret_key))


@contextlib.asynccontextmanager
async def _connected(account: Account) -> AsyncIterator[client.KciClient]:
    from kci.client import client, credentials
    from kci.contract import signing

    keys = credentials.Static(signing.Credentials(account.access_key, account.secret_key))
    try:
        service = client.KciClient(account.endpoint, region=account.region, credentials=keys)
    except ValueError as error:
        raise errors.UserError(str(error)) from error
    async with service:
        yield service
