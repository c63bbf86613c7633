"""Which tests prove which requirement, how often they ran and with which seed: a pytest plugin.

    @pytest.mark.requirement("R13")
    async def test_creates_sent_twice_make_one_group(runs):
        for run in range(runs.scale(quick=20, faults=200, release=1000)):
            chance = runs.random(run)

A property test (hypothesis) tells its examples instead: `requirement("R17", runs=5000)`.
`KCI_SCALE` says how much is run: `quick` (the default, with `make test`), `faults` or `release`. Tests
marked `faults` are left out at `quick`, unless they are asked for by `-m faults`. `KCI_SEED` replays a run:
the seed of a session is told in its header, and again with each failure. The table stands at the end of
each session; `--requirements-report FILE` keeps it as JSON, written anew after each test, so that a session
which was cut short tells what it ran and what it did not.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import pathlib
import random
import secrets

import pytest

from kci.kit import environment

# What is demanded of the line as it stands; the numbers are never given to something else.
TITLES = {
    "R01": "the virtual node is killed anywhere: one instance for each UID",
    "R02": "the answer of a create is lost: no second create",
    "R03": "the service is killed at any write: what was acknowledged stays",
    "R04": "a damaged store is refused or read whole, never empty",
    "R05": "the kcilet is killed at any step: containers untouched, nothing left",
    "R06": "a list that failed or is partial deletes nothing",
    "R07": "the world changed while it was away: the truth is told, nothing is lost",
    "R08": "no space, no files, bad disk: refused with a code, heals without restart",
    "R09": "a failed read writes nothing",
    "R10": "a cloud that lags: no Failed, no second create, no resurrection",
    "R11": "throttled or down: few attempts, node Ready, quick recovery",
    "R12": "a very long outage: nothing is forgotten",
    "R13": "the same create sent twice: one instance, one answer",
    "R14": "deletes in any order: no leak, no wrong UID",
    "R15": "a peer that hangs delays nobody else",
    "R16": "the API server away: containers go on, statuses follow",
    "R17": "watches that expire, stall, repeat, reorder: no divergence",
    "R18": "a lost delete: the instance goes, and no other",
    "R19": "a name used again: nothing crosses UIDs",
    "R20": "forced deletes and deletes while starting: the instance goes",
    "R21": "several writers of a status: it never goes backwards",
    "R22": "the node program restarted: readiness does not flap",
    "R23": "heartbeats under load",
    "R26": "two copies of one virtual node: only the Lease's holder acts",
    "R27": "streams end on both sides, byte-exact",
    "R28": "containerd killed at any call: everything ends, running pods stay",
    "R29": "a shim or sandbox killed: told honestly, restarted by policy",
    "R30": "exits are told as a kubelet tells them",
    "R38": "slow readers and dead peers: bounded memory",
    "R42": "hostile SPDY and WebSocket bytes: no crash, bounded memory",
    "R44": "signatures: nothing wrong accepted, nothing right refused",
    "R45": "signatures: the time window is exact",
    "R46": "replayed calls have no second effect",
    "R48": "an exec address: one use, one minute, one container",
    "R50": "the node's port: every path, method and right",
    "R52": "rights: what is used is what is granted, in each form",
    "R54": "a pod reaches what it may and nothing else, from before its first process",
    "R55": "Services: nothing forbidden behind a ClusterIP, nothing old for long",
    "R57": "no secret in anything that is written or shown",
    "R58": "keys that are rotated under load fail no call",
}


class Scale(enum.StrEnum):
    """How much a session runs."""

    QUICK = "quick"
    FAULTS = "faults"
    RELEASE = "release"


def scale() -> Scale:
    """Of this session; also for what is decided when a test is imported, such as hypothesis' settings."""
    return Scale(environment.read().get("KCI_SCALE") or Scale.QUICK)


def scaled(*, quick: int, faults: int, release: int) -> int:
    """The number for the scale of this session."""
    return {Scale.QUICK: quick, Scale.FAULTS: faults, Scale.RELEASE: release}[scale()]


class Runs:
    """What a test tells of itself: how many runs it does, and the seed that they follow from."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.count = 1
        # Whether the seed has any part in the test; else the table shows none.
        self.is_seeded = False

    @property
    def seed(self) -> int:
        self.is_seeded = True
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed, self.is_seeded = seed, True

    def scale(self, *, quick: int, faults: int, release: int) -> int:
        """The number of runs at the scale of this session; it is told as `count`."""
        self.count = scaled(quick=quick, faults=faults, release=release)
        return self.count

    def random(self, run: int = 0) -> random.Random:
        """Chance for this run, the same again with the same seed."""
        return random.Random(f"{self.seed} {run}")


@dataclasses.dataclass
class Row:
    """One line of the table."""

    requirement: str
    # That were to run, and that did.
    planned: int = 0
    tests: int = 0
    runs: int = 0
    seed: str = ""
    failed: list[str] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)
    # That failed, and passed when they were run once more.
    repeated: list[str] = dataclasses.field(default_factory=list)

    @property
    def not_run(self) -> int:
        """Of a session that was cut short."""
        return max(0, self.planned - self.tests - len(self.skipped))

    @property
    def result(self) -> str:
        """In one word, and what it leaves open."""
        if self.failed:
            word = f"FAILED ({len(self.failed)} of {self.tests})"
        elif self.not_run:
            word = "NOT RUN"
        elif not self.tests:
            word = "skipped" if self.skipped else "no test"
        else:
            word = "passed"
        notes = []
        if self.not_run:
            notes.append(f"{self.not_run} of {self.planned} not run")
        if self.skipped and word != "skipped":
            notes.append(f"{len(self.skipped)} skipped")
        if self.repeated:
            notes.append(f"{len(self.repeated)} of {self.tests} on the second try")
        return ", ".join([word, *notes])


@pytest.fixture
def runs(request):
    """How often the test does its thing, and from which seed; see the top of this file."""
    return _runs_of(request.node)


def pytest_addoption(parser):
    parser.addoption("--requirements-report", metavar="FILE", help="write the table of requirements as JSON")
    parser.addoption(
        "--requirement", metavar="ID,…", default="", help="run only the tests that prove these; `all` for any"
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "requirement(id, ..., runs=1): proves these requirements (see docs/reliability.md)"
    )
    config.addinivalue_line("markers", "faults: takes long; run by `make faults`, or with -m faults")
    given = environment.read().get("KCI_SEED")
    config.stash[_SEED] = int(given) if given else secrets.randbits(32)
    config.stash[_ROWS] = {}
    config.stash[_FAILED] = []
    config.stash[_PASSED] = []
    # Property tests follow the same seed.
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = config.stash[_SEED]


def pytest_report_header(config):
    return f"scale: {scale()}; seed: {config.stash[_SEED]} (KCI_SEED={config.stash[_SEED]} replays it)"


def pytest_collection_modifyitems(config, items):
    for item in items:
        unknown = set(_requirements(item)) - TITLES.keys()
        if unknown:
            raise pytest.UsageError(
                f"{item.nodeid} names {', '.join(sorted(unknown))}, which is no requirement"
            )
    wanted = {name for name in config.getoption("requirement").split(",") if name}
    with_faults = scale() is not Scale.QUICK or "faults" in config.option.markexpr
    left_out = [
        item
        for item in items
        if (item.get_closest_marker("faults") and not with_faults) or not _is_chosen(item, wanted)
    ]
    if left_out:
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish(session):
    for item in session.items:
        for requirement in _requirements(item):
            _row(item.config, requirement).planned += 1
    _write_report(session.config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    requirements = _requirements(item)
    mine = item.stash.get(_RUNS, None)
    if report.failed:
        if item.nodeid not in item.config.stash[_FAILED]:
            item.config.stash[_FAILED].append(item.nodeid)
        told = f"{mine.count} runs; " if mine else ""
        report.sections.append(("replay", f"{told}KCI_SCALE={scale()} KCI_SEED={item.config.stash[_SEED]}"))
    for requirement in requirements:
        row = _row(item.config, requirement)
        if report.when == "call" and not report.skipped:
            row.tests += 1
            row.runs += mine.count if mine else _told_runs(item)
            if mine.is_seeded if mine else _is_property(item):
                row.seed = str(mine.seed if mine else item.config.stash[_SEED])
        if report.failed:
            # A test that its setup kept from running has failed as well.
            row.tests += report.when == "setup"
            if item.nodeid not in row.failed:
                row.failed.append(item.nodeid)
        elif report.skipped:
            row.skipped.append(item.nodeid)
    if report.when == "teardown":
        rows = [_row(item.config, requirement) for requirement in requirements]
        if rows and item.nodeid not in rows[0].failed + rows[0].skipped:
            item.config.stash[_PASSED].append(item.nodeid)
        _write_report(item.config)
    return report


def pytest_terminal_summary(terminalreporter, config):
    rows = sorted(config.stash[_ROWS].values(), key=lambda row: row.requirement)
    # Who asked for the report puts the tables of several sessions together.
    if rows and not config.getoption("requirements_report"):
        terminalreporter.section(f"requirements, scale {scale()}, seed {config.stash[_SEED]}")
        terminalreporter.write_line(table(rows))
    _write_report(config)


def _row(config, requirement: str) -> Row:
    row: Row = config.stash[_ROWS].setdefault(requirement, Row(requirement))
    return row


def _write_report(config) -> None:
    path = config.getoption("requirements_report")
    if path:
        rows = sorted(config.stash[_ROWS].values(), key=lambda row: row.requirement)
        text = json.dumps(
            {
                "scale": scale(),
                "seed": config.stash[_SEED],
                "failed": config.stash[_FAILED],
                "passed": config.stash[_PASSED],
                "rows": [dataclasses.asdict(row) for row in rows],
            },
            indent=1,
        )
        # As a whole: whoever reads it may come at any moment.
        aside = pathlib.Path(f"{path}.new")
        aside.write_text(text + "\n", encoding="utf-8")
        aside.replace(path)


def table(rows: list[Row]) -> str:
    """As text for a terminal."""
    cells = [("requirement", "runs", "seeds", "result")]
    cells += [
        (f"{row.requirement} {TITLES[row.requirement]}", str(row.runs), row.seed or "-", row.result)
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return "\n".join(
        f"{what:<{widths[0]}}  {count:>{widths[1]}}  {seed:>{widths[2]}}  {result}"
        for what, count, seed, result in cells
    )


_SEED = pytest.StashKey[int]()
_ROWS = pytest.StashKey[dict[str, Row]]()
_FAILED = pytest.StashKey[list[str]]()
_PASSED = pytest.StashKey[list[str]]()
_RUNS = pytest.StashKey[Runs]()


def _runs_of(item) -> Runs:
    if _RUNS not in item.stash:
        item.stash[_RUNS] = Runs(item.config.stash[_SEED])
    return item.stash[_RUNS]


def _requirements(item) -> list[str]:
    return sorted({name for mark in item.iter_markers("requirement") for name in mark.args})


def _is_chosen(item, wanted: set[str]) -> bool:
    proven = set(_requirements(item))
    return not wanted or bool(proven & wanted) or (wanted == {"all"} and bool(proven))


def _told_runs(item) -> int:
    return max(mark.kwargs.get("runs", 1) for mark in item.iter_markers("requirement"))


def _is_property(item) -> bool:
    return hasattr(getattr(item, "obj", None), "hypothesis")
