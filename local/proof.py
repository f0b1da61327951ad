"""Judges whether two parts of a stream together are the whole log, frame for frame and byte for byte.

Pure; fetches nothing.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_COMMENT = re.compile(rb"^:[^\n]*\n", re.MULTILINE)


def split_frames(stream: bytes) -> list[bytes]:
    """Returns the complete SSE frames, without keep-alive comments and an incomplete last frame."""
    return _COMMENT.sub(b"", stream).split(b"\n\n")[:-1]


def read_number(frame: bytes) -> int:
    """Returns the frame's sequence_number. Raises ValueError if it is not an event of a response."""
    for line in frame.splitlines():
        if line.startswith(b"data: "):
            number = json.loads(line[len(b"data: ") :]).get("sequence_number")
            if isinstance(number, int):
                return number
    raise ValueError(f"not an event with a sequence_number: {frame[:80]!r}")


@dataclass(frozen=True, slots=True)
class Evidence:
    """The bytes received: before the cut, after resuming at `cursor`, and of whole replays, by API node."""

    before: bytes
    cursor: int
    after: bytes
    replays: Mapping[str, bytes]

    @property
    def first(self) -> list[bytes]:
        """The frames up to the cursor; those received after it were never handled, and do not count."""
        return [frame for frame in split_frames(self.before) if read_number(frame) <= self.cursor]

    @property
    def second(self) -> list[bytes]:
        return split_frames(self.after)


def find_faults(evidence: Evidence) -> list[str]:
    """Returns every reason why the parts are not the whole log; empty if they are."""
    union = [*evidence.first, *evidence.second]
    faults = _find_numbering_faults(union)
    if not evidence.first or not evidence.second:
        faults.append("the stream was not cut in the middle: one part is empty")
    for node, replay in evidence.replays.items():
        if split_frames(replay) != union:
            faults.append(f"the replay from {node} is not the union of the parts, byte for byte")
    if not evidence.replays:
        faults.append("there is no replay to compare with")
    return faults


def _find_numbering_faults(frames: Sequence[bytes]) -> list[str]:
    numbers = [read_number(frame) for frame in frames]
    if numbers == list(range(len(numbers))):
        return []
    missing = sorted(set(range(max(numbers) + 1)) - set(numbers))
    return [f"sequence numbers are not 0, 1, 2 …: missing {missing}, received {numbers}"]
