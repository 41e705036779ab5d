"""Results of verifying seals: kept, and known only of the seal that they are of."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.storage.verified import VerifiedFolders


def test_a_result_is_that_of_its_folder_and_seal(tmp_path: Path) -> None:
    kept = VerifiedFolders(tmp_path / "data")
    assert kept.last("/a", "1") is None
    kept.note("/a", "1", intact=False)
    found = kept.last("/a", "1")
    assert found is not None
    assert (found.intact, found.at > 1_700_000_000) == (False, True)
    assert kept.last("/a", "2") is None, "it was sealed anew"
    assert kept.last("/b", "1") is None
    kept.note("/a", "1", intact=True)
    again = VerifiedFolders(tmp_path / "data").last("/a", "1")
    assert again is not None
    assert again.intact


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b'{"folder": "/a", "seal": "1"}', b"[" * 100_000])
def test_a_result_that_cannot_be_read_is_unknown(tmp_path: Path, content: bytes) -> None:
    kept = VerifiedFolders(tmp_path)
    kept.note("/a", "1", intact=True)
    [file] = (tmp_path / "seals").iterdir()
    file.write_bytes(content)
    assert kept.last("/a", "1") is None
