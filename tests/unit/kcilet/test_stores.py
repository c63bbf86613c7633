"""Whose wishes a machine follows."""

import pytest

from kci.kcilet.plan import stores


@pytest.mark.parametrize(("served", "asking"), [("", "a"), ("a", "a"), ("a", ""), ("", "")])
def test_the_first_store_and_the_same_one_and_one_that_has_no_id_yet_are_served(served, asking):
    assert stores.to_refusal(served, asking, place="/file") == ""


@pytest.mark.requirement("R04")
def test_another_store_is_refused_with_the_remedy():
    refusal = stores.to_refusal("a", "b", place="/file")
    assert refusal.startswith("cannot serve store b: this machine serves store a;")
    assert "no pod is started or ended" in refusal
    assert "remove /file" in refusal
