"""What a user is told to type is about his stack, and where it is."""

import typer

from kci.cli import stack
from kci.stack import settings, typed


def test_of_a_stack_in_the_usual_place_nothing_is_added():
    place = typed.USUAL
    assert place.kci("status") == "kci status"
    assert place.again == "kci down && kci up"
    assert place.inside("ip route") == "ip route"


def test_another_state_folder_and_network_namespace_are_named():
    place = typed.Place(settings.Settings(state_dir="/srv/my stack", netns="n1"))
    assert place.kci("subnet delete ID") == "kci subnet delete ID --state-dir '/srv/my stack'"
    assert place.inside("ip route") == "nsenter --net=/run/netns/n1 ip route"
    assert place.again == (
        "kci down --state-dir '/srv/my stack' && kci up --state-dir '/srv/my stack' --netns n1"
    )


def test_a_stack_is_started_again_as_it_was_started():
    asked = settings.Settings(
        state_dir="/srv/b",
        kubeconfig="/a b",
        api_port=7443,
        runtime=settings.Runtime.RUNC,
        disable_taint=True,
    )
    assert typed.Place(asked).up == (
        "kci up --state-dir /srv/b --kubeconfig '/a b' --api-port 7443 --runtime runc --disable-taint"
    )


def test_each_setting_is_a_flag_of_the_command():
    app = typer.Typer()
    stack.add_commands(app)
    known = {form for one in typer.main.get_command(app).commands["up"].params for form in one.opts}
    asked = dict.fromkeys(settings.Settings.__struct_fields__, "x")
    named = {word for word in typed.Place(settings.Settings(**asked)).up.split() if word.startswith("--")}
    assert len(named) == len(asked)
    assert named <= known
