from kci.kcilet.plan import events


def test_services_that_a_pod_does_not_reach_are_told_with_the_reason():
    for told in (events.services_not_known("why"), events.services_not_reached("why")):
        assert told.type == "Warning"
        assert told.message.endswith("why")
