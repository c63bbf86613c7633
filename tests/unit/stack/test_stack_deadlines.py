"""What takes too long at a start is told in a sentence, and ended."""

import asyncio
import pathlib

import pytest

from kci.kube import config
from kci.stack import clusterobjects, errors, goprograms


async def test_a_cluster_that_answers_too_slowly_is_named_with_what_was_to_be_done():
    given = config.ClusterConfig(server="https://127.0.0.1:1")
    with pytest.raises(errors.StackError) as told:
        async with clusterobjects.opened(given, "set up the cluster's DNS", timeout_s=0):
            await asyncio.Event().wait()
    assert str(told.value).startswith("cannot set up the cluster's DNS within 0 s")
    assert "https://127.0.0.1:1" in str(told.value)


async def test_a_build_that_does_not_end_is_ended_and_told(tmp_path):
    program = tmp_path / "go"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    with pytest.raises(errors.PartFailedError) as told:
        await goprograms.run([str(program), "build", "-v", "x"], pathlib.Path("/"), {}, print, timeout_s=0)
    assert "`go build -v` has not ended within 0 min" in str(told.value)
    assert "GOPROXY" in str(told.value)
