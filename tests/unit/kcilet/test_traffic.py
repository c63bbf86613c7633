"""Limits of a pod's traffic: what they are, and when they are set."""

import dataclasses

import msgspec
import pytest
from fakes import kcilet_world, machine_world

from kci.kcilet import ports
from kci.kcilet.drivers.network import shaping
from kci.kcilet.plan import actions, histories, steps, traffic
from kci.kube import bandwidth
from kci.link import types as link

pytestmark = pytest.mark.guide("annotation ingress-bandwidth", "annotation egress-bandwidth")
on_virtual_time, world = kcilet_world.on_virtual_time, kcilet_world.world
LIMITS = ports.TrafficLimits(ingress_bits=10_000_000, egress_bits=5_000_000)


def pod(**annotations):
    made = machine_world.pod()
    return msgspec.structs.replace(
        made, metadata=msgspec.structs.replace(made.metadata, annotations=annotations)
    )


def group(ingress=0, egress=0):
    wanted = machine_world.group("web", "uid-1")
    return msgspec.structs.replace(wanted, ingress_bits=ingress, egress_bits=egress)


def test_the_pods_annotations_count_and_else_what_its_group_was_made_with():
    asked = pod(**{bandwidth.INGRESS: "10M"})
    assert traffic.limits_of(asked, group(ingress=7, egress=5_000_000)) == (LIMITS, [])
    assert traffic.limits_of(pod(), group()) == (ports.NO_LIMITS, [])


def test_what_cannot_be_read_is_told_and_changes_nothing():
    limits, (problem,) = traffic.limits_of(pod(**{bandwidth.EGRESS: "fast"}), group(egress=5_000_000))
    assert limits.egress_bits == 5_000_000
    assert bandwidth.EGRESS in problem
    assert "5000000 bits per second, as before" in problem


def running(limited, limits):
    box = ports.SeenSandbox("box1", "uid-1", "default", "web", 0, True, 1, "10.0.0.9")
    seen = ports.SeenPod("uid-1", (box,))
    wish = histories.Wish.RUN
    facts = steps.World(wish=wish, pod=pod(), seen=seen, now_s=1.0, limits=limits)
    history = histories.History(first_seen_s=0.0, laid_out="", limited=limited)
    return [one for one in steps.plan(facts, history).asked if isinstance(one, actions.LimitTraffic)]


def test_limits_are_set_when_they_changed_and_once_after_a_restart():
    assert running(ports.NO_LIMITS, LIMITS) == [actions.LimitTraffic(LIMITS)]
    assert running(LIMITS, LIMITS) == []
    # A kcilet that was restarted does not know what there is.
    assert running(None, ports.NO_LIMITS) == [actions.LimitTraffic(ports.NO_LIMITS)]


def test_a_sandbox_is_made_with_its_limits():
    facts = steps.World(
        wish=histories.Wish.RUN, pod=pod(), seen=ports.SeenPod("uid-1"), now_s=1.0, limits=LIMITS
    )
    run = actions.RunSandbox(0, LIMITS)
    assert run in steps.plan(facts, histories.History(first_seen_s=0.0)).asked
    done = histories.succeed(histories.History(first_seen_s=0.0), run, now_s=1.0)
    assert done.limited == LIMITS


@on_virtual_time
async def test_limits_follow_the_annotation_while_the_pod_runs():
    async with world() as it:
        await it.start(group(egress=5_000_000))
        await it.until_phase(link.Phase.RUNNING)
        assert it.drivers.network.limits["uid-1"] == ports.TrafficLimits(egress_bits=5_000_000)
        it.cluster.put(pod(**{bandwidth.EGRESS: "1M"}))
        await it.until(lambda: it.drivers.network.limits["uid-1"].egress_bits == 1_000_000)
        it.cluster.put(pod(**{bandwidth.EGRESS: "fast"}))
        reason = "BandwidthNotLimited"
        await it.until(lambda: reason in it.cluster.reasons())
        await it.until(lambda: it.drivers.network.limits["uid-1"].egress_bits == 5_000_000)


def test_a_bucket_is_small_beside_what_passes_in_a_second():
    for bits in (1_000, 10_000_000, 1_000_000_000, 30_000_000_000):
        made = shaping.bucket(bits)
        assert made["rate"] == bits // 8
        assert made["burst"] <= max(16 << 10, made["rate"] // 200)
        assert made["limit"] >= made["burst"]


def test_a_link_and_its_device_have_names_of_their_own():
    assert shaping.device_name("kv0123456789") == "ki0123456789"
    assert dataclasses.astuple(ports.NO_LIMITS) == (0, 0)
