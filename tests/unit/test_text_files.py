"""Text files are read in the charset that they name, and nothing else is taken for text."""

import base64

import pytest

from api.bodies.input_items import read_input
from api.errors import ClientError
from shared.text_files import UnreadableFile, text_of_file

TEXT = "Grüße, 1\n"


def data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (data_url("text/plain", TEXT.encode()), TEXT),
        (data_url("text/markdown; charset=UTF-8", b"\xef\xbb\xbf# A"), "# A"),
        (data_url("application/json", b"{}"), "{}"),
        (data_url("application/ld+json", b"[]"), "[]"),
        (data_url('text/csv;charset="windows-1252"', TEXT.encode("cp1252")), TEXT),
        (data_url("text/plain;charset=utf-16", TEXT.encode("utf-16")), TEXT),
        ("data:text/plain,Gr%C3%BC%C3%9Fe%2C%201%0A", TEXT),
        ("data:,a", "a"),
        (data_url("application/pdf", b"%PDF"), None),
        (data_url("application/octet-stream", b"a"), None),
        ("a,b", None),
        ("YWJj", None),
        ("data:text/plain", None),
        ("", None),
    ],
)
def test_a_text_file_is_read_in_its_charset_and_others_are_not(url: str, text: str | None) -> None:
    assert text_of_file(url) == text


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:text/plain;base64,a?", "it should be base64"),
        ("data:text/plain;base64,abc", "it should be base64"),
        ("data:text/plain;base64,ü", "it should be base64"),
        (data_url("text/csv", b"\xff\xfe"), "it should be text in utf-8"),
        ("data:text/plain;charset=idna,a", "its charset is not one of "),
        ("data:text/plain;charset=zip,a", "its charset is not one of "),
    ],
)
@pytest.mark.parametrize("place", ["content", "output"])
def test_a_file_that_cannot_be_decoded_is_refused_by_its_place(url: str, reason: str, place: str) -> None:
    with pytest.raises(UnreadableFile):
        text_of_file(url)
    part = {"type": "input_file", "file_data": url}
    item: dict[str, object] = {"role": "user", "content": [part]}
    if place == "output":
        item = {"type": "function_call_output", "call_id": "c", "output": [part]}
    with pytest.raises(ClientError) as refused:
        read_input([item], 10, is_continuing=False)
    assert refused.value.param == f"input[0].{place}[0].file_data"
    assert reason in str(refused.value)
