"""Whose rights the doctor looks at: those of whom the virtual node is, whoever asks."""

import pytest

from kci.doctor import cluster, examination, subject
from kci.doctor import node as node_area
from kci.doctor.facts import cluster as facts
from kci.doctor.facts import kci as kci_facts
from kci.doctor.findings import cluster as findings
from kci.doctor.findings import finding
from kci.kit import secret
from kci.kube import access, config, errors, models, resources

ADMINISTRATOR = access.User(name="kubernetes-admin", groups=("system:masters", "system:authenticated"))
NODE = access.User(name="system:node:vk", groups=("system:nodes", "system:authenticated"))
ACCOUNT = findings.SERVICE_ACCOUNT.user
TOLD = {
    "KCI_ACCESS_KEY": "a",
    "KCI_SECRET_KEY": "s",
    "KCI_REGION": "r-1",
    "KCI_CLUSTER_ID": "c",
}
FORM_B = "form B, deploy/least-privilege/service-account"
OF_FORM = ("rights of the node", "rights of the account", "right to Services")


class Api:
    """What the API server says to `caller`; `denied` has (user, verb, resource)."""

    def __init__(self, caller, denied, objects):
        self.caller = caller
        self.denied = denied
        self.objects = objects
        self.reviewed = {}

    async def request(self, method, path):
        assert (method, path) == ("GET", "/version")
        return b'{"gitVersion": "v1.36.3"}'

    async def review_self(self):
        return self.caller

    async def review_own_access(self, attributes):
        return await self.review_access(self.caller, attributes)

    async def review_access(self, user, attributes):
        if user != self.caller and (self.caller.name, "create", "subjectaccessreviews") in self.denied:
            raise errors.ForbiddenError("no", code=403)
        self.reviewed[user.name] = user
        return (user.name, attributes.verb, attributes.resource) not in self.denied

    async def get(self, resource, name, *, namespace=""):
        found = self.objects.get((resource.plural, name))
        if found is None:
            raise errors.NotFoundError("none", code=404)
        return found

    async def list_all(self, resource, *, namespace="", label_selector=""):
        raise errors.ForbiddenError("no", code=403)


class Cluster(facts.Cluster):
    """Over that API server."""

    def __init__(self, told, api):
        super().__init__(told.config, told.config, told.service_account, told.unread_identity)
        self.api = api

    async def _open(self, _config):
        return self.api


@pytest.fixture
def kubeconfig(tmp_path):
    file = tmp_path / "kubeconfig"
    given = config.ClusterConfig(server="https://127.0.0.1:1", token=secret.Secret("t"))
    file.write_text(config.render(given))
    return file


@pytest.fixture
def asked(kubeconfig):
    async def ask(*flags, caller=ADMINISTRATOR, denied=(), objects=None, **variables):
        given = {name: value for name, value in (TOLD | variables).items() if value is not None}
        found = subject.of_cluster(kubeconfig, given, ["--nodename=vk", *flags])
        reached = Cluster(found.node, Api(caller, set(denied), objects or {}))
        await reached.connect()
        return found, reached

    return ask


async def ask_cluster(found, reached, *names):
    questions = examination.of(
        cluster.AREA,
        cluster.Questions(reached, found.node),
        {name: cluster.ALL[name] for name in names},
        why="",
    )
    return {one.name: one.findings for one in await examination.examine(questions)}


async def rights(found, reached):
    return (await ask_cluster(found, reached, "rights of the account"))["rights of the account"]


def one(found):
    (only,) = found
    return only


async def test_of_a_deployment_its_service_account_is_judged_and_not_the_administrator(asked):
    found, reached = await asked()
    well = one(await rights(found, reached))
    assert (well.level, ACCOUNT.name in well.text) == (finding.Level.WELL, True)
    assert reached.api.reviewed == {ACCOUNT.name: ACCOUNT}
    assert "system:serviceaccounts:kube-system" in ACCOUNT.groups

    denied = [(ACCOUNT.name, "create", "certificatesigningrequests")]
    objects = {("serviceaccounts", "virtual-kubelet-sa"): {}}
    wrong = one(await rights(*await asked(denied=denied, objects=objects)))
    assert wrong.level is finding.Level.WRONG
    assert f"{ACCOUNT.name} may not create certificatesigningrequests" in wrong.text
    assert wrong.remedy == findings.remedy_of_account(ACCOUNT.name, "vk")


async def test_an_account_that_is_not_there_is_wrong_where_there_is_no_node_either(asked):
    denied = [(ACCOUNT.name, "create", "events")]
    wrong = one(await rights(*await asked(denied=denied)))
    assert (wrong.level, "no ServiceAccount" in wrong.text) == (finding.Level.WRONG, True)
    node = {("nodes", "vk"): models.Node(metadata=models.ObjectMeta(name="vk"))}
    unseen = one(await rights(*await asked(denied=denied, objects=node)))
    assert unseen.level is finding.Level.UNSEEN
    assert "--service-account" in unseen.text


async def test_who_may_not_ask_for_the_rights_of_others_does_not_judge_his_own_instead(asked):
    caller = access.User(name="somebody", groups=("system:authenticated",))
    denied = [("somebody", "create", "subjectaccessreviews")]
    unseen = one(await rights(*await asked(caller=caller, denied=denied)))
    assert unseen.level is finding.Level.UNSEEN
    assert "somebody may not create subjectaccessreviews" in unseen.text


async def test_the_node_itself_asks_for_itself(asked):
    found, reached = await asked(caller=NODE)
    assert "given its identity" in one(await rights(found, reached)).text
    assert (await reached.account()).name == NODE.name


async def test_an_identity_that_the_node_was_given_is_who_it_is(asked, tmp_path, kubeconfig):
    own = tmp_path / "own"
    own.write_text(kubeconfig.read_text())
    found, reached = await asked(f"--kubeconfig={own}")
    assert found.node.service_account is None
    assert await reached.account() == ADMINISTRATOR


async def test_an_identity_that_is_not_here_is_not_taken_for_that_of_who_asks(asked):
    found, reached = await asked("--kubeconfig=/etc/virtual-kubelet/none-here")
    unseen = one(await rights(found, reached))
    assert unseen.level is finding.Level.UNSEEN
    assert "--kubeconfig=/etc/virtual-kubelet/none-here is not here" in unseen.text
    assert reached.api.reviewed == {}


async def test_an_account_reads_endpoints_only_where_nobody_told_the_server(asked):
    denied = [(ACCOUNT.name, "list", "endpointslices")]
    objects = {("serviceaccounts", "virtual-kubelet-sa"): {}}
    missing = one(await rights(*await asked(denied=denied, objects=objects)))
    assert "may not list endpointslices in default" in missing.text
    told = await asked(denied=denied, objects=objects, KCI_CLUSTER_SERVER="10.0.0.1:6443")
    assert one(await rights(*told)).level is finding.Level.WELL


async def test_a_node_that_may_be_its_service_account_is_not_judged_as_system_node(asked):
    found, reached = await asked("--provider-config=/etc/virtual-kubelet/none-here.yaml")
    assert found.node.problems == ()
    seen = await ask_cluster(found, reached, *OF_FORM)
    assert {one(each).level for each in seen.values()} == {finding.Level.UNSEEN}
    assert all(FORM_B in one(each).text for each in seen.values())
    assert reached.api.reviewed == {}

    questions = node_area.Questions(reached, found.node, is_here=False)
    told = await questions.settings()
    assert [each.level for each in told] == [finding.Level.WELL, finding.Level.UNSEEN]
    with pytest.raises(finding.NotAtHandError, match="form B"):
        await questions.server_of_instances()


@pytest.mark.parametrize("is_form_b", [False, True])
async def test_a_config_that_is_here_tells_as_whom_the_node_acts(asked, tmp_path, is_form_b):
    file = tmp_path / "config.yaml"
    path = "/etc/virtual-kubelet/none-here"
    file.write_text(f"kciletKubeconfigPath: {path}\n" if is_form_b else "customLabels: {a: b}\n")
    found, reached = await asked(f"--provider-config={file}")
    assert found.node.problems == ()
    seen = await ask_cluster(found, reached, *OF_FORM)
    expected = finding.Level.UNSEEN if is_form_b else finding.Level.WELL
    assert {one(each).level for each in seen.values()} == {expected}


async def test_endpoints_that_we_may_not_read_are_no_fault_of_the_nodes(asked):
    found, reached = await asked()
    with pytest.raises(finding.NotAtHandError, match="kubernetes-admin may not list endpointslices"):
        await node_area.Questions(reached, found.node, is_here=False).server_of_instances()


@pytest.mark.parametrize(
    ("denied", "problem"), [((), ""), (("list", "watch"), f"{ACCOUNT.name} may not list and watch it")]
)
async def test_temporary_keys_are_read_by_the_account(asked, denied, problem):
    keys = models.ConfigMap(data={"ak": "a", "sk": "s", "cipher": "none"})
    found, reached = await asked(
        denied=[(ACCOUNT.name, verb, resources.CONFIG_MAPS.plural) for verb in denied],
        objects={("configmaps", "keys"): keys},
        KCI_ACCESS_KEY=None,
        KCI_SECRET_KEY=None,
        TEMP_AKSK_CM="keys",
    )
    async with kci_facts.Service(found.node.settings, reached) as service:
        seen = one(await service.temporary_keys())
    assert seen.problem == problem
    assert (ACCOUNT.name in seen.remedy) is bool(problem)
