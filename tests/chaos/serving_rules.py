"""The rules of what serves a response, by whatever door, in one trace; and of those who look on. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from shared import events as ev
from shared.frames import decode
from shared.responses import Message, Response
from shared.service_tiers import served_tier
from tests.chaos.doors import KEY
from tests.chaos.history import Chatted, Log, Looked, Observation
from tests.chaos.judging import CallHistory, Findings, Violation
from tests.chaos.reasons import Span, Strikes

_LATER = (429, 503)
_MAY_BE_GONE = "/console/responses"
_MOMENT_S = 0.001
_BETWEEN_MESSAGES = "\n\n"


def check_served(history: CallHistory, response: Response) -> Findings:
    """Checks that the end names the tier and the model that were asked for, and that a chat says the same."""
    asked = history.asked
    if response.status in ("completed", "incomplete"):
        served, wanted = (response.model, response.service_tier), (asked.model, served_tier(asked.tier))
        if served != wanted:
            yield "what serves is what was asked for", f"{served} served, {wanted} was asked for"
    texts = (
        "".join(part.text for part in item.content) for item in response.output if isinstance(item, Message)
    )
    said = _BETWEEN_MESSAGES.join(texts)
    for seen in history.seen:
        if isinstance(seen, Chatted) and seen.text != said:
            yield "a chat is its response", f"the chat said {seen.text!r}, its response {said!r}"


def check_traces(
    traces: Mapping[str, Collection[str]], histories: Mapping[int, CallHistory]
) -> Iterator[Violation]:
    """Checks that all attempts at a response are in one trace."""
    for call, history in histories.items():
        for response_id in history.response_ids:
            if len(found := traces.get(response_id, ())) > 1:
                yield Violation(
                    "a response is one trace", call, f"{response_id} has spans in {sorted(found)}"
                )


def check_looks(observations: Iterable[Observation], strikes: Strikes) -> Iterator[Violation]:
    """Checks that whoever looks on is answered, or refused with a cause, and that all models are listed."""
    for seen in observations:
        if not isinstance(seen, Looked):
            continue
        has_cause = strikes.calm_s(Span(seen.at_s, seen.at_s + _MOMENT_S)) == 0
        is_gone = seen.status == 404 and seen.what == _MAY_BE_GONE
        if not (seen.status == 200 or (seen.status in _LATER and has_cause) or is_gone):
            what = f"{seen.what} was answered {seen.status} at {seen.at_s}"
            yield Violation("who looks on is answered", None, what)
        if seen.lacks:
            yield Violation("who looks on is answered", None, f"the list of models lacks {seen.lacks}")


def is_of_a_lost_socket(log: Log, histories: Iterable[CallHistory]) -> bool:
    """Returns True for a response of a socket that was lost before its client knew of it. A call on a socket
    has no key by which it could be repeated."""
    match decode(log.frames[0]) if log.frames else None:
        case ev.ResponseCreated(response=response) | ev.ResponseQueued(response=response):
            key = response.metadata.get(KEY)
            return any(one.asked.way == "socket" and one.asked.key == key for one in histories)
        case _:
            return False
