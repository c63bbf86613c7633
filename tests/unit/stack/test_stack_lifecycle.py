import fcntl
import os

import msgspec
import pytest

from kci.stack import board, errors, layout, lifecycle, preparation, processes, record, settings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="stacks are root's")


@pytest.fixture
def where(tmp_path):
    where = layout.Layout(tmp_path)
    record.write(
        where.launch, record.Launch(run_id="run", settings=settings.Settings(state_dir=str(tmp_path)))
    )
    return where


@pytest.fixture
def running(where):
    """A state folder whose supervisor is this process."""
    record.write(where.state, board.new_state("run", None, processes.observe(os.getpid())))
    with where.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield where


def test_a_stack_that_runs_is_found_and_other_settings_are_noticed(running):
    same = lifecycle.start(settings.Settings(state_dir=str(running.root)), foreground=False)
    assert (same.run_id, same.process, same.differs) == ("run", None, False)
    other = lifecycle.start(settings.Settings(state_dir=str(running.root), api_port=7443), foreground=False)
    assert other.differs


def test_of_a_stack_that_was_killed_it_is_told_what_to_type_about_it(where):
    record.write(where.state, board.new_state("run", None, record.ProcessId(pid=2**22, start_ticks=1)))
    told = lifecycle.read(where.root)
    assert f"`kci up --state-dir {where.root}` brings the stack back" in told.failure
    assert f"`kci down --state-dir {where.root}` cleans up" in told.failure
    where.launch.write_text("damaged")
    assert lifecycle.read(where.root).failure == told.failure


def test_what_is_left_keeps_what_it_was_started_with_when_the_next_launch_cannot_be_written(where):
    """As on a full disk."""
    left = board.new_state("run", None, None)
    record.write(where.state, msgspec.structs.replace(left, changes=record.Changes(has_pods=True)))
    before = record.read_launch(where)
    where.launch_before.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        lifecycle.start(before.settings, foreground=False)
    assert record.read_launch(where) == before


def test_the_state_of_a_stack_that_runs_is_not_removed(running):
    with pytest.raises(errors.RunningError, match="runs in it"):
        lifecycle.purge(running.root)
    assert running.launch.exists()


def test_state_is_removed_once_nothing_runs(where):
    assert lifecycle.purge(where.root)
    assert not where.root.exists()
    assert not lifecycle.purge(where.root)


def test_a_folder_that_another_start_is_just_making_is_not_taken_for_somebody_elses(tmp_path):
    where = layout.Layout(tmp_path)
    where.lock.touch()
    where.logs.mkdir()
    assert record.read_choices(where) is None


def test_a_kubeconfig_that_cannot_be_read_is_named_and_binds_the_folder_to_nothing(where, tmp_path):
    path = tmp_path / "config"
    path.write_text("clusters: [")
    asked = msgspec.structs.replace(record.read_launch(where).settings, kubeconfig=str(path))
    with pytest.raises(errors.StackError, match=f"--kubeconfig {path}: .*YAML"):
        preparation.read_cluster(where, asked)
    assert record.read_choices(where) is None
