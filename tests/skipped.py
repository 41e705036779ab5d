"""Tests that take long, and a run's last line: how many were skipped, and what they need. Silent where none was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Skip what takes long, unless it is asked for (-m long): all else takes less than twenty minutes on two cores."""
    if "long" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("long") is not None:
                item.add_marker(pytest.mark.skip(reason="takes long: make test-long"))


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
