"""A server whose disk, folder, clock or database turns against it: does it answer as the pages say, and lose nothing?

    python -m tests.reliability.adversity                       # all
    python -m tests.reliability.adversity --only disk_full clock

Disks are tmpfs where this is root; else a limit on the size of files stands for a full one, and permissions for a
read-only one. Clocks jump by libfaketime (Debian: faketime); the monotonic clock is left alone, as in life.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.reliability import clocks, databases, disks
from tests.reliability.journal import Bar, Journal, parser, progress
from tests.reliability.lives import House
from tests.reliability.visitor import Skipped, Visitor

CASES: dict[str, Callable[[House, Visitor], None]] = {
    "disk_full": disks.disk_full,
    "disk_full_from_start": disks.disk_full_from_start,
    "read_only": disks.read_only,
    "read_only_start": disks.read_only_start,
    "pictures_removed": disks.pictures_removed,
    "temporary_folder_full": disks.temporary_folder_full,
    "two_servers": disks.two_servers,
    "clock": clocks.jumps,
    "database": databases.database,
}


def main() -> int:
    options_parser = parser(__doc__, time_limit_s=1800)
    options_parser.add_argument("--only", nargs="+", choices=[*CASES], default=[*CASES], help="these alone")
    options = options_parser.parse_args()
    journal = Journal("adversity", options)
    done = {row["name"] for row in journal.rows}
    with progress() as shown:
        bar = shown.add_task("cases", total=len(options.only), completed=len(done))
        for name in options.only:
            if name in done or journal.out_of_time:
                continue
            with tempfile.TemporaryDirectory(prefix="adversity-") as folder:
                house = House(Path(folder) / "data")
                visitor = Visitor(house, name, options.seed)
                skipped = ""
                try:
                    CASES[name](house, visitor)
                except Skipped as reason:
                    skipped = str(reason)
                except Exception as error:  # the other cases can still be tried
                    visitor.faults.append(f"{name}: {type(error).__name__}: {error}"[:300])
            journal.add(name=name, answers=visitor.count, skipped=skipped, faults=visitor.faults)
            shown.advance(bar)
    return _end(journal, whole=len(journal.rows) >= len(options.only))


def _end(journal: Journal, *, whole: bool) -> int:
    skipped = [f"{row['name']} ({row['skipped']})" for row in journal.rows if row["skipped"]]
    tried = [row["name"] for row in journal.rows if not row["skipped"]]
    counts = f"{len(tried)} cases tried ({', '.join(tried)}), {sum(row['answers'] for row in journal.rows)} answers"
    if skipped:
        counts += f", SKIPPED {', '.join(skipped)}"
    return journal.end(counts, [Bar("cases skipped", len(skipped), len(skipped))], whole=whole)


if __name__ == "__main__":
    sys.exit(main())
