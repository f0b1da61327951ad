"""What the script that ships says, to which words, and with which tools."""

from collections.abc import Iterator

import pytest

from tests.scripted import (
    BROWSER,
    CASES,
    CITY,
    FOUND,
    MATCHED,
    NO_PYTHON,
    OPENED,
    PYTHON,
    QUESTION,
    SCRIPT,
    SEED,
    TOOLS,
    Case,
    continuation,
    cue_of,
    python_says,
    said,
)
from worker.harmony.parser import MessageClosed, MessageOpened, SegmentParser, TextContinued
from worker.harmony.signatures import ToolSignature
from worker.harmony.tokens import (
    STOP_TOKENS,
    ChatMessage,
    DeveloperPart,
    decode,
    encode,
    render,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.scene}: {case.message[:30]}")
def test_each_case_is_answered_by_its_scene_and_ends_with_a_stop_token(case: Case) -> None:
    tokens = continuation(case.prompt)
    assert cue_of(case.prompt).scene.name == case.scene
    assert tokens[-1] in STOP_TOKENS
    assert not set(tokens[:-1]) & set(STOP_TOKENS)


def test_there_is_a_case_for_every_scene_that_ships() -> None:
    assert {case.scene for case in CASES} == {scene.name for scene in SCRIPT.scenes}


def test_the_seeds_request_gives_the_seeds_turns() -> None:
    assert said(SEED) == (
        "<|channel|>analysis<|message|>We need to compute 123*456. Use python.<|end|>"
        "<|start|>assistant<|channel|>analysis to=python code<|message|>123*456\n<|call|>"
    )
    assert said(SEED, ("python", "56088\n")) == (
        "<|channel|>final<|message|>The product of \\(123 \\times 456\\) is **56,088**.<|return|>"
    )


def test_the_browser_searches_opens_finds_and_cites_what_it_was_shown() -> None:
    message, offered = "Search for fencing tokens and find 'append'.", (BROWSER,)
    assert said(message, offered=offered).endswith(
        'to=browser.search <|constrain|>json<|message|>{"query": "fencing tokens"}<|call|>'
    )
    assert said(message, FOUND, offered=offered).endswith(
        'open <|constrain|>json<|message|>{"id": 0}<|call|>'
    )
    assert said(message, FOUND, OPENED, MATCHED, offered=offered) == (
        "<|channel|>final<|message|>The page *Leases* answers this【1†L2-L3】. The places with “append” are "
        "listed, too【2†L1】; another page may help【0†L4】.<|return|>"
    )


def test_the_seeds_texts_come_in_the_seeds_tokens() -> None:
    texts = [decode([token]) for token in continuation(Case("", SEED, python_says("56088\n")).prompt)]
    assert texts[3:-1] == (
        ["The", " product", " of", " \\(", "123", " \\", "times", " ", "456", "\\", ")", " is", " **"]
        + ["56", ",", "088", "**", "."]
    )


def test_the_product_is_what_the_tool_said_and_never_calculated() -> None:
    assert "**1,234,567**" in said(SEED, ("python", "1234567\n"))
    assert "**-0.5**" in said(SEED, ("python", "-0.5"))
    assert "**(no output)**" in said(SEED, ("python", ""))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("Multiply 12 by 34", "12*34"),
        ("please multiply 1,234.5 and -7.", "1234.5*-7"),
        ("What is 12 times 34?", "12*34"),
        ("what's 007 multiplied by 8", "7*8"),
        ("The product of 3 and 4, please", "3*4"),
        ("123 \N{MULTIPLICATION SIGN} 456", "123*456"),
        ("Hello! Multiply \\(3 \\times 4\\)", "3*4"),
        ("What is -3 * 4?", "-3*4"),
        ("What is 3 plus 4?", "3+4"),
        ("sum of 1.5 and 2", "1.5+2"),
        ("10 minus \N{MINUS SIGN}3", "10 - -3"),
        ("Subtract 4 from 10", "10 - 4"),
        ("difference between 10 and 4", "10 - 4"),
        ("compute 10-3", "10 - 3"),
        ("Divide 1 by 8", "1/8"),
        ("what is 7/2?", "7/2"),
        ("Compute 2*3+4", "2*3+4"),
        ("What is (2+3)*4 using python?", "(2+3)*4"),
    ],
)
def test_numbers_and_wordings_of_a_calculation_are_understood(message: str, code: str) -> None:
    assert said(message).endswith(f"<|channel|>analysis to=python code<|message|>{code}\n<|call|>")


@pytest.mark.parametrize("message", ["multiply 3*4*5", "2**10", "24/7 support", "On 2024-01-02 it rained"])
def test_what_is_no_single_calculation_is_not_taken_for_one(message: str) -> None:
    assert "to=python" not in said(message)


def test_without_python_nothing_is_calculated_and_the_answer_says_so() -> None:
    answer = said(SEED, offered=(NO_PYTHON,))
    assert "calculate nothing myself" in answer
    assert "to=python" not in answer


@pytest.mark.parametrize(
    "error",
    [
        "Traceback (most recent call last):\n  File x\nZeroDivisionError: division by zero",
        "Error: no such file",
        '{"error": "quota"}',
        "The tool call failed: no result within 60 s (code -32001).",
        "The tool's server could not be used: refused (HTTP 502).",
        "The tool reported an error: out of memory",
    ],
)
def test_an_error_of_a_tool_is_reported_as_one(error: str) -> None:
    answer = said(SEED, ("python", error))
    assert "answered with an error" in answer
    assert error in answer


@pytest.mark.parametrize(
    "result", ["There were no errors", '{"error": null, "n": 3}', "The error rate is 3 %"]
)
def test_a_result_that_only_speaks_of_errors_is_a_result(result: str) -> None:
    assert "answered with an error" not in said(SEED, ("python", result))


def test_a_count_is_every_number_up_to_the_last() -> None:
    answer = said("Count from 1 to 100,000")
    assert answer.endswith("99999, 100000<|return|>")
    numbers = answer.removeprefix("<|channel|>final<|message|>").removesuffix("<|return|>").split(", ")
    assert numbers == [str(n) for n in range(1, 100_001)]


def test_a_long_count_has_the_tokens_that_it_has_as_a_whole() -> None:
    text = ", ".join(map(str, range(1, 3001)))
    assert continuation(Case("", "Count from 1 to 3000").prompt)[3:-1] == encode(text)


def test_a_weather_function_is_called_by_its_own_parameters() -> None:
    for name, parameters, arguments in [
        ("get_weather", CITY, '{"location": "New York", "unit": "celsius"}'),
        ("weather_now", QUESTION, '{"q": "New York"}'),
        (
            "WeatherFor",
            {
                "type": "object",
                "properties": {"wo": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["wo", "days"],
            },
            '{"wo": "New York", "days": 0}',
        ),
        ("no_arguments_weather", None, "{}"),
    ]:
        offered = DeveloperPart(None, {"functions": (None, (ToolSignature(name, "", parameters),))})
        answer = said("What is the weather in New York, please?", offered=(NO_PYTHON, offered))
        call = f"commentary to=functions.{name} <|constrain|>json<|message|>{arguments}<|call|>"
        assert answer.endswith(call)


def test_the_weather_is_what_the_function_said() -> None:
    result = ("functions.get_weather", '{"sky": "grey", "celsius": 9}')
    answer = said("What is the weather in Paris?", result, offered=(PYTHON, TOOLS))
    assert answer.endswith(
        "The weather in Paris, as `get_weather` reports it: sky: grey, celsius: 9<|return|>"
    )


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ('Use deepwiki.ask with {"q": "x"}', 'deepwiki.ask <|constrain|>json<|message|>{"q": "x"}'),
        ("use the mcp.deepwiki.ask tool", "deepwiki.ask <|constrain|>json<|message|>{}"),
        (
            'call the tool echo of server test-server with {"q": {"a": [1]}}',
            'test-server.echo <|constrain|>json<|message|>{"q": {"a": [1]}}',
        ),
        ("Use the `echo` tool.", "test-server.echo <|constrain|>json<|message|>{}"),
    ],
)
def test_an_mcp_tool_that_the_message_names_is_called(message: str, call: str) -> None:
    assert said(message, offered=(PYTHON, TOOLS)).endswith(f"commentary to={call}<|call|>")


def test_an_mcp_tool_that_is_not_offered_is_not_called() -> None:
    assert "<|call|>" not in said("Use deepwiki.ask", offered=(PYTHON,))
    assert "<|call|>" not in said("Use nowhere.echo", offered=(PYTHON, TOOLS))


def test_the_answer_quotes_what_the_mcp_tool_said() -> None:
    answer = said("Use deepwiki.ask", ("deepwiki.ask", "The tower is 330 m high."), offered=(PYTHON, TOOLS))
    assert answer.endswith("`deepwiki.ask` answered:\n\nThe tower is 330 m high.<|return|>")


def test_without_a_match_the_question_is_repeated_with_what_can_be_asked() -> None:
    answer = said("What is love?", offered=(PYTHON, TOOLS))
    assert "not a language model" in answer
    assert "> What is love?" in answer
    assert "Tools offered here: python, deepwiki.ask, functions.get_weather, test-server.echo." in answer


def test_results_before_the_last_user_message_are_of_the_past() -> None:
    earlier = [
        ChatMessage("user", SEED),
        ChatMessage("assistant", "123*456\n", "analysis", "python", "code"),
        ChatMessage("tool", "56088\n", "analysis", "assistant", name="python"),
        ChatMessage("assistant", "It is 56,088.", "final"),
    ]
    prompt = render([PYTHON, *earlier, ChatMessage("user", "Multiply 2*3")])
    assert decode(continuation(prompt)).endswith("code<|message|>2*3\n<|call|>")


# --- malformed Harmony ------------------------------------------------------------------------


def segments_of(kind: str) -> Iterator[object]:
    parser = SegmentParser()
    for token in continuation(render([PYTHON, ChatMessage("user", f"Emit malformed Harmony: {kind}")])):
        yield from parser.feed(token)


def test_malformed_harmony_is_malformed() -> None:
    well_formed = [MessageOpened("final", None, None), TextContinued("This message"), MessageClosed(False)]
    assert MessageOpened("final", None, None) not in list(segments_of("unknown channel"))
    assert list(segments_of("nothing")) == []
    assert list(segments_of("two answers")).count(well_formed[0]) == 2
    assert "\N{REPLACEMENT CHARACTER}" in "".join(
        segment.text for segment in segments_of("broken character") if isinstance(segment, TextContinued)
    )
    assert MessageOpened("commentary", "nowhere.nothing", "json") in list(segments_of("unknown tool"))
