"""The format number of a response's record and log, which lets different versions run side by side.

Owns the numbers and what each one changed. `acquire.lua` refuses a record to a worker that cannot replay it;
the translator knows what an older format means for events. docs/adr/0022-record-formats.md says when the
number rises.
"""

RECORD_FORMAT = 5
"""The format that this version writes. It rises with each change after which an earlier version's replay
would make other events, or could not read the record at all:

1  (no number in the record) The first format.
2  Final messages have a phase; absent fields have no key (`encrypted_content`, a listing's `error`).
   The log of a background response begins with `response.created` and `response.queued`.
   A call beyond `max_tool_calls` has no item.
   A prompt that tools' answers make too long loses its oldest messages, if the request allows that.
3  Prompts: `# Response Formats` ends the developer message, later developer messages have a heading, and the
   types of tools say all that their schemas do. The text of attached files is read.
   The arguments of a tool that takes plain text are JSON in items, unless Harmony messages are requested.
   An entry may hold an item with the result that clients are not shown.
   A message may cite pages, with an event for each citation.
   The client runs custom tools, shells, patches and the members of namespaces; once it has a call to run, the
   model is not asked again.
   Reasoning has summary parts, with their events, and sealed text, if the request asks for them.
4  A request names the dialect of its events.
   A search in a page that fails names the page if it is known, and otherwise has no address.
5  Prompts: what became of each item of a history is told, whatever its status says and its client left out.
   A context may be compacted: items of that type, and their events.
   A history may have calls of tools that only other services have.
   `input_messages` shows `# Response Formats` where the model reads it.
   A turn is read to its end, whatever it calls, and all its calls are made; approved calls are made together.
   Prompts: an earlier call that another one follows ends as the model ends it, with `<|end|>`.
"""
RECORD_FORMAT_OLDEST = 1
"""The oldest format that this version can replay. An open record below it ends as `failed`, with a reason."""
