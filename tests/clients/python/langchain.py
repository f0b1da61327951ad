"""Chat models of `langchain-openai` on the Responses API."""

import json
from typing import Any

import httpx
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

Known = dict[str, Any]


def connect(known: Known) -> Any:
    return ChatOpenAI(
        model="default",
        base_url=known["url"],
        api_key="any",
        use_responses_api=True,
        max_retries=0,
        default_headers=known.get("headers"),
        **known.get("options", {}),
    )


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"-31 degrees, snow in {city}"


def collect(chunks: Any) -> Any:
    whole = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    return whole


def text(known: Known) -> object:
    model = connect(known)
    question = known["question"]
    answer = collect(model.stream(question)) if known["stream"] else model.invoke(question)
    return {"text": answer.text, "tokens": answer.usage_metadata["output_tokens"] > 0}


def tool_loop(known: Known) -> object:
    """Answers the tool call, and asks one more question with the whole history."""
    weather = tool(get_weather)
    model = connect(known).bind_tools([weather])
    messages: list[Any] = [HumanMessage("What is the weather in Oslo?")]
    asked = collect(model.stream(messages)) if known["stream"] else model.invoke(messages)
    messages += [asked, *(weather.invoke(call) for call in asked.tool_calls)]
    messages.append(model.invoke(messages))
    again = model.invoke([*messages, HumanMessage("Count from 1 to 3")])
    return {"calls": [call["args"] for call in asked.tool_calls], "texts": [messages[-1].text, again.text]}


def stateless(known: Known) -> object:
    """Answers the tool call with a history that the server does not have; reports what was sent."""
    sent: list[Any] = []
    options = {"store": False, "include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}}
    client = httpx.Client(event_hooks={"request": [lambda request: sent.append(json.loads(request.content))]})
    weather = tool(get_weather)
    chat = connect({**known, "options": {**options, "http_client": client, "output_version": "responses/v1"}})
    model = chat.bind_tools([weather])
    messages: list[Any] = [HumanMessage("What is the weather in Oslo?")]
    asked = collect(model.stream(messages)) if known["stream"] else model.invoke(messages)
    messages += [asked, *(weather.invoke(call) for call in asked.tool_calls)]
    return {"text": model.invoke(messages).text, "sent": sent}


def hosted_mcp(known: Known) -> object:
    server = {"type": "mcp", "server_label": "test", "server_url": known["mcp"], "require_approval": "never"}
    model = connect(known).bind_tools([server])
    question = 'Use test.add with {"a": 2, "b": 3}'
    answer = collect(model.stream(question)) if known["stream"] else model.invoke(question)
    again = model.invoke([HumanMessage(question), answer, HumanMessage(question)])
    return {"kinds": [part["type"] for part in answer.content], "texts": [answer.text, again.text]}


def approval(known: Known) -> object:
    """Answers an approval request, as its documentation does: by the id of the response that asks."""
    server = {"type": "mcp", "server_label": "test", "server_url": known["mcp"], "require_approval": "always"}
    model = connect(known).bind_tools([server])
    question = 'Use test.add with {"a": 2, "b": 3}'
    asked = collect(model.stream(question)) if known["stream"] else model.invoke(question)
    answers = [
        {
            "type": "mcp_approval_response",
            "approve": known["approves"],
            "approval_request_id": part["id"],
        }
        for part in asked.content
        if part["type"] == "mcp_approval_request"
    ]
    message = {"role": "user", "content": answers}
    result = model.invoke([message], previous_response_id=asked.response_metadata["id"])
    return {"asked": len(answers), "text": result.text}


def failure(known: Known) -> object:
    """Reports the exception that a question causes, and its base classes."""
    try:
        text(known)
    except Exception as error:  # noqa: BLE001  whatever it is, is what is asked
        return [kind.__name__ for kind in type(error).__mro__]
    return None


def code_interpreter(known: Known) -> object:
    """Runs code, and asks once more with the whole history."""
    model = connect(known).bind_tools([{"type": "code_interpreter", "container": {"type": "auto"}}])
    question = "Multiply 123*456"
    answer = collect(model.stream(question)) if known["stream"] else model.invoke(question)
    again = model.invoke([HumanMessage(question), answer, HumanMessage("Multiply 3*4")])
    return {"kinds": [part["type"] for part in answer.content], "texts": [answer.text, again.text]}


def web_search(known: Known) -> object:
    """Searches, and asks once more with the whole history."""
    model = connect(known).bind_tools([{"type": known["kind"]}])
    question = known["question"]
    answer = collect(model.stream(question)) if known["stream"] else model.invoke(question)
    again = model.invoke([HumanMessage(question), answer, HumanMessage("Count from 1 to 3")])
    cited = [each for part in answer.content if part["type"] == "text" for each in part["annotations"]]
    return {
        "kinds": [part["type"] for part in answer.content],
        "texts": [answer.text, again.text],
        "cited": [each["url"] for each in cited],
    }
