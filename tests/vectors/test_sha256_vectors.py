"""The browser's own SHA-256 against the examples of FIPS 180-4 and against hashlib, at every length around a block."""

import hashlib
import json
import random
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
SCRIPT = Path(__file__).parent / "sha256_cases.mjs"


def in_node(cases: list[list[bytes]]) -> list[str]:
    lines = [json.dumps([b64encode(part).decode() for part in parts]) for parts in cases]
    done = subprocess.run(
        ["node", str(SCRIPT)], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split("\n")[:-1]


def test_the_examples_of_the_standard_are_hashed_right() -> None:
    two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"

    found = in_node([[b"abc"], [two_blocks], [b"a" * 1_000_000], []])

    # FIPS 180-4 examples; SHA-256 of nothing is its well-known value.
    assert found == [
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ]


def test_every_length_around_a_block_and_any_parting_agrees_with_hashlib() -> None:
    chance = random.Random(20261125)
    cases = []
    for length in [*range(300), 4094, 4095, 4096, 4097, 9000, 70_000, 65, 64, 3]:
        data = chance.randbytes(length)
        cut = chance.randint(0, length)
        cases.append([data[:cut], b"", data[cut:]])

    assert in_node(cases) == [hashlib.sha256(b"".join(parts)).hexdigest() for parts in cases]
