"""What pages for users name is there: flags, variables, commands, and reasons of Events and errors."""

import argparse
import ast
import re

import doc_pages
import pytest
import reference
import typer

from kci.cli import main as cli
from kci.contract import errors, operations
from kci.kcilet import settings as kcilet_settings
from kci.kube import reasons
from kci.provider import key_settings, options
from kci.service import settings as service_settings

# Written for those who change the code, or made from it.
DEVELOPERS = re.compile(
    r"docs/(decisions|reference)/|docs/how-to/add-|docs/(architecture|upstream|glossary|reliability)\.md"
)
PAGES = [page.as_posix() for page in doc_pages.pages() if not DEVELOPERS.match(page.as_posix())]
# Words of Kubernetes, of the API and of `kci plan` that are written like reasons.
OTHER_WORDS = {"ClusterFirst", "ClusterFirstWithHostNet", "MachineDnsConfig", "InvalidPod"}

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def codes(page):
    """What stands between backticks."""
    return _CODE.findall(_FENCE.sub("", (doc_pages.REPOSITORY / page).read_text()))


def known_words():
    tables = (reasons.NODE, reasons.REFUSALS, reasons.POD, reasons.RUN, reasons.CONDITIONS)
    of_reasons = {word for table in (*tables, reasons.CONTAINERS, reasons.GROUPS) for word in table}
    return of_reasons | set(errors.CATALOGUE) | set(operations.ALL) | OTHER_WORDS


def flags_of(parser):
    return {form for action in parser._actions for form in action.option_strings}


def kci_commands():
    """The flags of each command, by its words."""
    found = {
        name: {form for one in command.params for form in (*one.opts, *one.secondary_opts)}
        for name, command in reference.walk(typer.main.get_command(cli.app))
    }
    found["serve"] |= flags_of(service_settings.make_parser())
    return found


def kcilet_commands():
    (below,) = (
        action
        for action in kcilet_settings.make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return {name: flags_of(parser) for name, parser in below.choices.items()}


COMMANDS = {
    **{f"kci {name}": flags for name, flags in kci_commands().items()},
    **{f"kcilet {name}": flags for name, flags in kcilet_commands().items()},
    "virtual-kubelet": {f"--{flag.name}" for flag in options.FLAGS},
    "kci": {"--help", "--version", "--install-completion"},
}


def problem_of(code):
    """What is wrong with a command in the text, or nothing."""
    words = code.split()
    if words[0] not in {"kci", "kcilet", "virtual-kubelet"}:
        return ""
    if words[1:2] == ["COMMAND"]:
        return ""
    names = [" ".join(words[:count]) for count in (3, 2, 1)]
    name = next((name for name in names if name in COMMANDS), "")
    groups = {known.rsplit(" ", 1)[0] for known in COMMANDS}
    if not name or (name == "kci" and words[1:2] and not words[1].startswith("-")):
        return "" if code in groups else f"there is no command `{code}`"
    own = code.partition(" -- ")[0]
    unknown = set(_FLAG.findall(own)) - COMMANDS[name] - {"--help"}
    return f"`{name}` has no {', '.join(sorted(unknown))}" if unknown else ""


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_flags_are_there(page):
    assert [problem for code in codes(page) if (problem := problem_of(code))] == []


# Of programs that are not ours.
OTHERS_FLAGS = {
    "kubectl": {"--force", "--previous", "--raw", "--minify", "--list", "--clusterrole", "--user"},
    "kube-apiserver": {"--authorization-mode", "--client-ca-file", "--kubelet-certificate-authority"},
    "kube-controller-manager": {"--cluster-signing-cert-file"},
    "ps and du": {"--sort", "--inodes"},
    "nsenter": {"--net"},
}


def texts_of(module):
    """Every text in a module's code, docstrings included."""
    tree = ast.parse(module.read_text())
    return [
        one.value for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str)
    ]


@pytest.mark.parametrize("folder", ["cli/explanation", "doctor"])
def test_remedies_name_flags_that_are_there(folder):
    known = set().union(*COMMANDS.values(), *OTHERS_FLAGS.values())
    modules = [*(doc_pages.REPOSITORY / "src" / "kci" / folder).rglob("*.py")]
    named = {flag for module in modules for text in texts_of(module) for flag in _FLAG.findall(text)}
    assert named
    assert named - known == set()


@pytest.mark.parametrize("page", PAGES)
def test_reasons_and_error_codes_are_there(page):
    words = {code for code in codes(page) if re.fullmatch(r"[A-Z][a-z]+([A-Z][A-Za-z]*)+", code)}
    assert words - known_words() == set()


@pytest.mark.parametrize("page", PAGES)
def test_variables_are_there(page):
    known = {option.name for option in (*options.VARIABLES, *key_settings.VARIABLES)}
    named = {word for code in codes(page) for word in re.findall(r"\b(?:KCI|VKUBELET)_[A-Z_]*[A-Z]\b", code)}
    assert named - known == set()


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("kci nothing", "no command"),
        ("kci groups --nothing", "has no --nothing"),
        ("kcilet run --nothing 1", "has no --nothing"),
        ("virtual-kubelet --nothing", "has no --nothing"),
        ("kci exec ID -c NAME -- program --its-own", ""),
        ("kci subnet create --cidr 10.0.0.0/8", ""),
        ("kubectl get --raw", ""),
    ],
)
def test_a_word_that_is_not_there_would_be_found(code, wrong):
    assert wrong in problem_of(code) if wrong else not problem_of(code)


def test_pages_name_many_of_them():
    found = [code for page in PAGES for code in codes(page)]
    assert len([code for code in found if code.startswith("kci ")]) > 40
    assert len(set(found) & known_words()) > 30
