"""Texts that clients carry: opened by whoever has the key, for the tenant and purpose of the seal."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from shared.sealing import REASONING, Seal, is_sealed_here
from shared.settings import Settings

OLD, NEW = (SecretStr(base64.urlsafe_b64encode(bytes([n] * 32)).decode()) for n in (1, 2))
SEALED = Seal([NEW], "acme", REASONING).seal("What the model thought.")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens_to_the_same_text(text: str) -> None:
    seal = Seal([NEW], "acme", REASONING)
    assert seal.open(seal.seal(text)) == text


def test_every_node_with_the_key_makes_the_same_bytes_and_opens_them() -> None:
    assert Seal([NEW, OLD], "acme", REASONING).seal("What the model thought.") == SEALED
    assert is_sealed_here(SEALED)
    assert "thought" not in base64.urlsafe_b64decode(SEALED.rpartition(".")[2] + "==").decode("latin-1")


def test_an_old_key_still_opens_and_seals_nothing() -> None:
    before = Seal([OLD], "acme", REASONING).seal("text")
    after = Seal([NEW, OLD], "acme", REASONING)
    assert after.open(before) == "text"
    assert after.seal("text") != before
    assert Seal([NEW], "acme", REASONING).open(before) is None


def test_it_opens_for_no_other_tenant_and_for_no_other_purpose() -> None:
    assert Seal([NEW], "acme", REASONING).open(SEALED) == "What the model thought."
    assert Seal([NEW], "other", REASONING).open(SEALED) is None
    assert Seal([NEW], "acme", "other").open(SEALED) is None


@given(st.integers(0, len(SEALED) - 1), st.characters(exclude_categories=["Cs"]))
def test_no_character_of_it_can_be_changed(place: int, character: str) -> None:
    changed = SEALED[:place] + character + SEALED[place + 1 :]
    opened = Seal([NEW], "acme", REASONING).open(changed)
    assert opened is None or changed == SEALED or base64_bits(changed) == base64_bits(SEALED)


def base64_bits(sealed: str) -> bytes:
    """The bytes that are encoded: the last character has bits that mean nothing."""
    head, _, encoded = sealed.rpartition(".")
    return head.encode() + base64.urlsafe_b64decode(encoded + "==")


@given(st.text() | st.integers(0, len(SEALED)).map(lambda length: SEALED[:length]).filter(SEALED.__ne__))
@pytest.mark.parametrize("mark", ["", "antiphon1.", SEALED[:18]])
def test_nothing_else_opens(mark: str, text: str) -> None:
    assert mark + text == SEALED or Seal([NEW, OLD], "acme", REASONING).open(mark + text) is None


def test_a_key_has_32_bytes_and_is_not_the_one_of_the_tool_servers_secrets() -> None:
    with pytest.raises(ValidationError, match="32 bytes"):
        Settings(seal_keys=[SecretStr("c2hvcnQ=")])
    with pytest.raises(ValidationError, match="must not contain secrets_key"):
        Settings(seal_keys=[NEW, OLD], secrets_key=OLD)
