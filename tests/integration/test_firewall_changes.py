"""Any way from one firewall to the next leads to the same table of the kernel's."""

import itertools
import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kci.kcilet import ports
from kci.kcilet.drivers.network import rules
from kci.link import types as link

FRAME = rules.Frame(table="kci-guard", link_group=77, connections=100)


def pod(number, policy="", tenant=""):
    interface = link.Interface(
        address=f"10.0.0.{number}",
        prefix_length=16,
        gateway="10.0.0.1",
        mac_address=f"02:00:00:00:00:{number:02x}",
    )
    return ports.GuardedPod(f"uid-{number}", interface, tenant, policy)


policies = st.dictionaries(
    st.sampled_from(["p", "q", "r"]),
    st.builds(
        ports.Policy,
        incoming=st.lists(
            st.builds(
                ports.PacketRule,
                is_allowed=st.booleans(),
                protocol=st.sampled_from(link.Protocol),
                first_port=st.just(5),
                members_of=st.sampled_from(["", "m", "n"]),
            ),
            max_size=3,
            unique=True,
        ).map(tuple),
    ),
)


@st.composite
def firewalls(draw):
    found = draw(policies)
    pods = [
        pod(number, draw(st.sampled_from(["", *found])), draw(st.sampled_from(["", "t"])))
        for number in draw(st.sets(st.integers(2, 6)))
    ]
    named = {one.members_of for policy in found.values() for one in policy.incoming if one.members_of}
    members = {
        name: frozenset(draw(st.sets(st.sampled_from(["10.0.0.2", "10.0.0.3"])))) for name in sorted(named)
    }
    return ports.Firewall(tuple(pods), found, members)


def nft(*texts):
    """What the table is after these transactions, in a network namespace of their own."""
    steps = "".join(f"nft -f - <<'END' || exit 1\n{text}END\n" for text in texts)
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", f"{steps}nft list table inet kci-guard"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return sorted(line.strip() for line in re.sub(r",\s+", ", ", done.stdout).splitlines())


@pytest.mark.integration
@pytest.mark.requirement("R54", runs=15)
@settings(max_examples=15, deadline=None)
@given(states=st.lists(firewalls(), min_size=2, max_size=4))
def test_changes_lead_to_the_table_that_would_have_been_made_at_once(states):
    made = [rules.to_ruleset(one, FRAME) for one in states]
    steps = [rules.changes(before, after, FRAME) for before, after in itertools.pairwise(made)]
    changed = nft(rules.whole(made[0], FRAME), *filter(None, steps))
    assert changed == nft(rules.whole(made[-1], FRAME))
