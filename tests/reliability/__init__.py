"""Suites with figures: long, seeded, bounded runs against a real server, each a command of its own.

    python -m tests.reliability.fuzz_api        fuzzed requests on all routes
    python -m tests.reliability.fuzz_pictures   mutated pictures through the decoder
    python -m tests.reliability.ssrf            picture URLs that mean the inside of the network
    python -m tests.reliability.kills           workers and fronts killed under load
    python -m tests.reliability.disconnects     clients that leave at random moments
    python -m tests.reliability.slow            slow and silent sockets beside an honest client
    python -m tests.reliability.soak            everything that clients do, for hours
    python -m tests.reliability.adversity       full disks, read-only folders, clocks that jump

pytest collects none of them. Results are in out/reliability/NAME.jsonl, and a run that was cut short goes on where it
stopped. docs/reliability.md says what each has to show, and what it showed last.
"""
