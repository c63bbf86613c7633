"""The kubeconfig that instances get, of the moment."""

import dataclasses

import pytest

from kci.kit import errors as kit_errors
from kci.kit import secret
from kci.kube import client as clients
from kci.kube import config as configs
from kci.kube import errors, models
from kci.provider import kubeconfig

IN_POD = configs.ClusterConfig(server="https://10.96.0.1:443", token=secret.Secret("first"))


class Account:
    """Answers with the API servers behind default/kubernetes, after what it was told to raise."""

    def __init__(self, *addresses):
        self.addresses, self.raises, self.asked = addresses, None, 0

    async def list_all(self, _resource, *, namespace, label_selector):
        assert (namespace, label_selector) == ("default", "kubernetes.io/service-name=kubernetes")
        self.asked += 1
        if self.raises is not None:
            raise self.raises
        part = models.EndpointSlice(
            endpoints=(models.Endpoint(addresses=self.addresses),), ports=(models.EndpointPort(port=6443),)
        )
        return clients.Listing((part,), "1")


def handed(account, identities, cluster_server=""):
    return kubeconfig.Handed(
        account, lambda: identities[-1], cluster_server=cluster_server, service_host="10.96.0.1"
    )


async def test_instances_get_an_api_servers_own_address_never_the_services():
    account, identities = Account("10.0.0.3", "10.0.0.4"), [IN_POD]
    found = configs.parse((await handed(account, identities).find()).reveal())
    assert (found.server, found.token.reveal()) == ("https://10.0.0.3:6443", "first")


async def test_a_renewed_identity_is_handed_on_from_then_and_the_server_is_asked_for_once():
    account, identities = Account("10.0.0.3"), [IN_POD]
    one = handed(account, identities)
    assert await one.find() is await one.find()
    identities.append(dataclasses.replace(IN_POD, token=secret.Secret("second")))
    assert configs.parse((await one.find()).reveal()).token.reveal() == "second"
    assert account.asked == 1


async def test_the_server_that_was_told_counts_and_nobody_is_asked():
    account = Account()
    found = configs.parse((await handed(account, [IN_POD], "10.9.9.9:443").find()).reveal())
    assert (found.server, account.asked) == ("https://10.9.9.9:443", 0)


async def test_without_an_address_or_the_right_to_look_a_person_is_told_what_to_set():
    account = Account()
    for account.raises in (None, errors.ForbiddenError("no")):
        with pytest.raises(kit_errors.UserError, match="set KCI_CLUSTER_SERVER"):
            await handed(account, [IN_POD]).find()
    account.raises = errors.UnreachableError("away")
    with pytest.raises(errors.UnreachableError):
        await handed(account, [IN_POD]).find()
