"""What a test wrote while it ran holds no secret: a pytest plugin for the tests that start real parts (R57).

Our code runs inside of the integration tests' own process and logs everything there, debug too, so what
pytest caught of it is an output like any other.
"""

from __future__ import annotations

import canaries
import pytest

STARTS_PARTS = ("integration", "e2e")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call" and any(item.get_closest_marker(name) for name in STARTS_PARTS):
        found = secrets_in(report.sections)
        if found and report.passed:
            report.outcome = "failed"
            report.longrepr = f"what the test wrote holds {', '.join(found)}"
    return report


def secrets_in(sections: list[tuple[str, str]]) -> list[str]:
    """What of pytest's captured sections looks like a secret, in words that do not repeat it."""
    text = "\n".join(content for title, content in sections if title.startswith("Captured"))
    return sorted(set(canaries.Canaries().find(text.encode())))
