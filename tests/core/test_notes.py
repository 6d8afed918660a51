"""Checkpoints as C2SP signed notes."""

import pytest

from core.crypto import Ed25519Private
from core.errors import Rejected
from core.notes import (
    COSIGNATURE,
    Checkpoint,
    Verifier,
    add_line,
    cosign,
    open_note,
    read_checkpoint,
    read_verifier,
    sign_note,
)

pytestmark = pytest.mark.unit

# The signed-note example of golang.org/x/mod/sumdb/note: key, text and signature.
GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

LOG_KEY = Ed25519Private(b"\x01" * 32)
MIRROR_KEY = Ed25519Private(b"\x02" * 32)
CHECKPOINT = Checkpoint("tracebond.example/log", 42, b"\x07" * 32)
LOG = Verifier("tracebond.example/log", LOG_KEY.public)
MIRROR = Verifier("mirror.example", MIRROR_KEY.public, COSIGNATURE)


def test_the_go_example_note_verifies() -> None:
    text, signers = open_note(GO_NOTE, [read_verifier(GO_VERIFIER)])

    assert text.startswith("If you think")
    assert signers == {"PeterNeumann": 0}


def test_the_go_example_note_with_one_letter_changed_is_refused() -> None:
    with pytest.raises(Rejected, match="bad_signature"):
        open_note(GO_NOTE.replace("answer", "Answer"), [read_verifier(GO_VERIFIER)])


def test_a_checkpoint_carries_the_log_and_its_cosigners() -> None:
    note = sign_note(CHECKPOINT.text(), LOG.name, LOG_KEY)
    note = add_line(note, cosign(CHECKPOINT.text(), MIRROR.name, MIRROR_KEY, time=1_700_000_000))

    text, signers = open_note(note, [LOG, MIRROR])

    assert read_checkpoint(text) == CHECKPOINT
    assert signers == {LOG.name: 0, MIRROR.name: 1_700_000_000}


def test_a_note_by_nobody_expected_is_refused() -> None:
    with pytest.raises(Rejected, match="unsigned_note"):
        open_note(sign_note(CHECKPOINT.text(), LOG.name, LOG_KEY), [MIRROR])


def test_a_cosignature_with_another_time_is_refused() -> None:
    line = cosign(CHECKPOINT.text(), MIRROR.name, MIRROR_KEY, time=1)
    later = cosign(CHECKPOINT.text(), MIRROR.name, MIRROR_KEY, time=2)
    forged = line[:-60] + later[-60:]

    with pytest.raises(Rejected):
        open_note(CHECKPOINT.text() + "\n" + forged, [MIRROR])


@pytest.mark.parametrize(
    "text",
    ["a\n1\n", "a\n01\n" + "A" * 43 + "=\n", "a\n-1\n" + "A" * 43 + "=\n", "\n1\n" + "A" * 43 + "=\n", "a\n1\nAA==\n"],
)
def test_a_checkpoint_with_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="bad_checkpoint"):
        read_checkpoint(text)


def test_a_verifier_key_survives_its_text_and_refuses_another_hash() -> None:
    assert read_verifier(MIRROR.encode()).public.raw == MIRROR.public.raw
    with pytest.raises(Rejected, match="bad_verifier_key"):
        read_verifier(LOG.encode().replace("+" + LOG.key_hash.hex(), "+00000000"))
