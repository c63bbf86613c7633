import pathlib

import msgspec
import pytest

from kci.kit import errors as kit_errors
from kci.stack import board, errors, layout, parts, record, settings

CHOICES = record.Choices(
    format=record.FORMAT,
    kci_version="0.1.0",
    cluster="",
    pod_cidr="10.88.0.0/16",
    service_cidr="10.152.0.0/16",
    etcd_port=1,
    etcd_peer_port=2,
    controller_manager_port=3,
    scheduler_port=4,
    registry_port=5,
)


@pytest.fixture
def where(tmp_path):
    return layout.Layout(tmp_path)


def test_choices_come_back_as_they_were_written(where):
    assert record.read_choices(where) is None
    record.write(where.choices, CHOICES)
    assert record.read_choices(where) == CHOICES


def test_a_folder_of_another_format_is_refused_with_the_remedy(where):
    record.write(where.choices, msgspec.structs.replace(CHOICES, format=99, kci_version="9.0"))
    with pytest.raises(errors.StackError, match=r"kci 9\.0 in format 99.*--state-dir"):
        record.read_choices(where)


def test_a_damaged_file_is_never_taken_for_a_new_folder(where):
    where.choices.write_text('{"format": ')
    with pytest.raises(errors.StackError, match="damaged"):
        record.read_choices(where)


def test_a_damaged_account_of_the_supervisor_says_how_to_stop_the_stack(where):
    where.state.write_text('{"run_id": ')
    with pytest.raises(errors.StackError, match=r"damaged; stop the stack by `kill \$\(fuser .*/lock\)`"):
        record.read_state(where)
    where.state.write_text('{"run_id": 1}')
    with pytest.raises(errors.StackError, match="with the kci that started it"):
        record.read_state(where)


def test_a_damaged_identity_is_not_made_anew_and_not_quoted(where):
    where.identity.write_text('{"secret_key": hunter2')
    with pytest.raises(errors.StackError, match=r"damaged; restore it") as told:
        record.read_or_make_identity(where)
    assert "hunter2" not in str(told.value)


def test_a_damaged_wish_to_end_keeps_the_node(where):
    where.down_request.write_text("")
    assert record.read_down_request(where).keep_node


def test_somebody_elses_folder_is_not_taken_over(where):
    (where.root / "letters").write_text("dear")
    with pytest.raises(errors.StackError, match="not empty and not a stack's"):
        record.read_choices(where)


def test_the_operators_account_is_made_once_and_hides_its_secret(where):
    first = record.read_or_make_identity(where)
    assert record.read_or_make_identity(where) == first
    assert first.secret_key not in repr(first)
    assert where.identity.stat().st_mode & 0o777 == 0o600


def test_what_an_earlier_run_of_this_boot_changed_is_not_forgotten(where):
    earlier = msgspec.structs.replace(
        board.new_state("1", None, None), changes=record.Changes(netns_created="n1")
    )
    assert board.new_state("2", earlier, None).changes.netns_created == "n1"
    rebooted = msgspec.structs.replace(earlier, boot_id="another boot")
    assert not board.new_state("2", rebooted, None).changes.netns_created


def test_the_board_writes_what_it_says(where):
    account = board.Board(where, board.new_state("run", None, None))
    account.update_part(parts.Part.ETCD, state=record.PartState.RUNNING, detail="x")
    account.write()
    assert record.read_state(where) == account.state
    assert account.state.part(parts.Part.ETCD).detail == "x"


def test_everything_wrong_with_the_settings_is_named_at_once():
    with pytest.raises(kit_errors.SettingsError) as caught:
        settings.checked(
            settings.Settings(
                state_dir="/" + "x" * 100,
                netns="../etc",
                node_name="Bad_Name",
                pod_cidr="10.0.0.1/16",
                service_cidr="10.96.0.0/30",
                api_port=0,
                kci_port=10250,
                log_level="loud",
                kubeconfig="/nowhere/config",
            )
        )
    text = "\n".join(caught.value.problems)
    for option in ("state-dir", "netns", "node-name", "pod-cidr", "service-cidr", "api-port", "log-level"):
        assert f"--{option}" in text
    assert "must differ" in text
    assert "is not a file" in text


def test_settings_are_made_absolute_and_every_option_has_its_meaning(tmp_path):
    checked = settings.checked(settings.Settings(state_dir="here"))
    assert pathlib.Path(checked.state_dir).is_absolute()
    assert all(settings.describe(field.name) for field in msgspec.structs.fields(settings.Settings))
