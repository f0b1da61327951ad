import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.model import checkpoint
from tests.model.checkpoint import CONFIG, VOCABULARY, VOCABULARY_MATRICES, expand, load_tensors, make_random
from tests.model.conversations import CONVERSATIONS, Conversation, tokens_in_use, tokens_said
from worker.harmony.parser import MessageClosed, MessageOpened, SegmentParser, TextContinued

MAKERS = [pytest.param(expand, id="trained"), pytest.param(make_random, id="random")]


def read(folder: Path) -> dict[str, checkpoint.Tensor]:
    return load_tensors((folder / "model.safetensors").read_bytes())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "trained"
    expand(folder)
    return folder


def test_both_checkpoints_have_the_same_tensors_for_the_same_shape(trained: Path, tmp_path: Path) -> None:
    make_random(tmp_path / "random")
    whole, blank = read(trained), read(tmp_path / "random")
    assert {name: (t.kind, t.shape) for name, t in whole.items()} == {
        name: (t.kind, t.shape) for name, t in blank.items()
    }
    assert (tmp_path / "random" / "config.json").read_text() == (trained / "config.json").read_text()
    assert json.loads((trained / "config.json").read_text()) == CONFIG


def test_every_token_of_the_conversations_has_a_row_of_its_own_and_all_others_share_one(
    trained: Path,
) -> None:
    for name in VOCABULARY_MATRICES:
        matrix = read(trained)[name]
        size = len(matrix.data) // VOCABULARY
        rows = [matrix.data[begin : begin + size] for begin in range(0, len(matrix.data), size)]
        used = set(tokens_in_use())
        (others,) = {row for token, row in enumerate(rows) if token not in used}
        own = [rows[token] for token in sorted(used)]
        assert len({*own, others}) == len(own) + 1


def test_random_weights_are_small_and_the_same_each_time(tmp_path: Path) -> None:
    make_random(tmp_path / "one")
    make_random(tmp_path / "two")
    tensor = read(tmp_path / "one")["lm_head.weight"]
    assert tensor == read(tmp_path / "two")["lm_head.weight"]
    begins = random.Random(1).sample(range(0, len(tensor.data), 2), 1000)
    drawn = [struct.unpack("<f", b"\0\0" + tensor.data[begin : begin + 2])[0] for begin in begins]
    assert all(2**-7 <= abs(weight) < 2**-5 for weight in drawn)
    assert 400 < sum(weight > 0 for weight in drawn) < 600


@pytest.mark.parametrize("make", MAKERS)
def test_a_folder_that_is_whole_is_left_as_it_is(make: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    make(folder)
    before = [(path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    make(folder)
    assert before == [
        (path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())
    ]


def test_a_folder_that_was_cut_is_made_whole_and_nothing_else_is_left(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes()[:1000])
    expand(folder)
    assert read(folder) == read(trained)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_disk_that_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def fail_on_weights(path: Path, data: bytes) -> int:
        if path.name == "model.safetensors":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail_on_weights)
    with pytest.raises(OSError, match="No space"):
        expand(tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_things_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"diary\.txt"):
        expand(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda conversation: conversation.name)
def test_what_the_model_says_reads_as_the_messages_it_was_made_of(conversation: Conversation) -> None:
    for step in conversation.steps:
        parser = SegmentParser()
        segments = [segment for token in tokens_said(step.said) for segment in parser.feed(token)]
        opened = [segment for segment in segments if isinstance(segment, MessageOpened)]
        assert opened == [MessageOpened(m.channel, m.recipient, m.content_type) for m in step.said]
        text = "".join(segment.text for segment in segments if isinstance(segment, TextContinued))
        assert text == "".join(message.text for message in step.said)
        assert segments[-1] == MessageClosed(is_call=step.result is not None)
