"""The number of the format that a response's record and log are in, so that versions can live together.

Owns the numbers and what each one changed. Who may take a record is `acquire.lua`'s to refuse; what another
format means for an event is the translator's. docs/adr/0022-record-formats.md says when the number rises.
"""

RECORD_FORMAT = 2
"""What this version writes. It rises with each change after which an earlier worker's replay would make
other events, or could not read the record at all:

1  (no number in the record) the first one.
2  Final messages have a phase; what is not there has no key (`encrypted_content`, a listing's `error`).
   The log of a background response begins with `response.queued` after `response.created`.
   A call beyond `max_tool_calls` has no item.
   A prompt that tools' answers make too long loses its oldest messages, where a request allows that.
"""
RECORD_FORMAT_OLDEST = 1
"""What this version can still replay. An open record below it ends as `failed`, with a reason."""
