"""Key files: made once, kept, private."""

import os
import threading
from pathlib import Path

import pytest

from core.errors import Broken
from ledger.keyfiles import KeyFiles


def test_keys_are_created_once_and_come_back_the_same(tmp_path: Path) -> None:
    first, second = KeyFiles(tmp_path / "keys"), KeyFiles(tmp_path / "keys")

    assert first.operator.thumbprint() == second.operator.thumbprint()
    assert first.checkpoint.public.raw == second.checkpoint.public.raw
    assert len({first.operator.thumbprint(), first.receipt.thumbprint(), first.gateway("1").thumbprint()}) == 3
    assert first.has("operator")
    assert not first.has("other")
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "keys").iterdir())


def test_two_that_start_together_use_one_key(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(KeyFiles(tmp_path).operator.thumbprint())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys = KeyFiles(tmp_path)
    keys.operator.thumbprint()
    os.chmod(tmp_path / "operator.pem", 0o644)

    with pytest.raises(Broken, match="key_file_mode"):
        keys.operator.thumbprint()


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Broken):
        KeyFiles(tmp_path).p256("../operator")
