"""What a manifest grants, and what an audit log says was used."""

import json

import rights

ACCOUNT = "system:serviceaccount:kube-system:vk"
GROUP = "rbac.authorization.k8s.io"


def role(kind, namespace, *rules):
    return {"kind": kind, "metadata": {"name": "r", "namespace": namespace}, "rules": rules}


def binding(kind, namespace, role_kind="ClusterRole", name="r"):
    return {
        "kind": kind,
        "metadata": {"name": "b", "namespace": namespace},
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": name},
        "subjects": [
            {"kind": "ServiceAccount", "name": "vk", "namespace": "kube-system"},
            {"kind": "User", "name": "system:node:vn1"},
        ],
    }


STATUS = {"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["get", "patch"]}
LEASE = {
    "apiGroups": ["coordination.k8s.io"],
    "resources": ["leases"],
    "resourceNames": ["vn1"],
    "verbs": ["get"],
}


def named(found):
    return sorted(str(one) for one in found)


def test_a_cluster_role_counts_everywhere_or_where_a_role_binding_says():
    everywhere = [role("ClusterRole", "", STATUS), binding("ClusterRoleBinding", "")]
    assert named(rights.granted(everywhere, ACCOUNT)) == [
        "get pods */*",
        "get pods/status */*",
        "patch pods */*",
        "patch pods/status */*",
    ]
    here = [role("ClusterRole", "", LEASE), binding("RoleBinding", "a")]
    assert named(rights.granted(here, "system:node:vn1")) == ["get leases.coordination.k8s.io a/vn1"]
    assert rights.granted(here, "system:node:vn2") == set()


def test_a_role_is_that_of_its_namespace_and_others_may_be_known():
    objects = [
        role("Role", "a", LEASE),
        role("Role", "b", STATUS),
        binding("RoleBinding", "a", "Role"),
        binding("ClusterRoleBinding", "", name="k"),
    ]
    assert named(rights.granted(objects, ACCOUNT, known={"k": [LEASE]})) == [
        "get leases.coordination.k8s.io */vn1",
        "get leases.coordination.k8s.io a/vn1",
    ]


def event(**changes):
    return {
        "verb": "get",
        "user": {"username": ACCOUNT},
        "objectRef": {
            "apiGroup": "coordination.k8s.io",
            "resource": "leases",
            "namespace": "a",
            "name": "vn1",
        },
        "annotations": {"authorization.k8s.io/decision": "allow"},
        **changes,
    }


def test_what_was_asked_for_is_covered_by_the_same_verb_kind_namespace_and_name(tmp_path):
    log = tmp_path / "audit.jsonl"
    others = (
        event(verb="patch"),
        event(objectRef={"resource": "leases", "namespace": "a", "name": "vn1"}),
        event(objectRef=event()["objectRef"] | {"namespace": "b"}),
        event(objectRef=event()["objectRef"] | {"name": "vn2"}),
        event(objectRef=event()["objectRef"] | {"subresource": "status"}),
    )
    refused = event(annotations={"authorization.k8s.io/decision": "forbid"})
    paths = event(objectRef=None) | {"requestURI": "/version"}
    log.write_text("".join(json.dumps(one) + "\n" for one in (event(), *others, refused)))
    with log.open("a") as file:
        file.write(json.dumps(paths) + "\n" + '{"half":')
    here = [role("ClusterRole", "", LEASE), binding("RoleBinding", "a")]
    (right,) = rights.granted(here, ACCOUNT)
    uses = rights.used(log)
    assert [right.covers(use) for use in uses] == [True, *(False for _ in others), True]
    assert [use.is_allowed for use in uses] == [*(True for _ in uses[:-1]), False]
