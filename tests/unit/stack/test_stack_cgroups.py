"""Where cgroups are mounted, by what their folder holds."""

import pytest

from kci.stack import cgroups, errors


@pytest.mark.parametrize("file", ["cgroup.controllers", "cpu/cgroup.procs", "unified/cgroup.procs"])
def test_cgroups_of_either_version_are_seen(tmp_path, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    cgroups.check_mounted(tmp_path)


@pytest.mark.parametrize("folder", ["", "cpu", "none"])
def test_a_machine_without_cgroups_is_refused_with_what_to_type(tmp_path, folder):
    (tmp_path / "cpu").mkdir()
    with pytest.raises(errors.StackError, match=r"no cgroups are mounted.*mount -t cgroup2.*--netns NAME"):
        cgroups.check_mounted(tmp_path / folder)
