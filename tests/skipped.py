"""The last line of a test run: how many tests were skipped, and what they need. Silent where none was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Outermost, so that the line comes after pytest's own last one."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")  # xdist's workers have none
    if reporter is not None and (skipped := reporter.stats.get("skipped")):
        reporter.write_line(last_line(skipped))


def last_line(skipped: Sequence[pytest.TestReport]) -> str:
    """Every reason once, the most frequent first: a reason says what is needed, and what installs it."""
    reasons = Counter(_reason(report) for report in skipped)
    return f"{len(skipped)} skipped: " + "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())


def _reason(report: pytest.TestReport) -> str:
    return report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else "no reason"
