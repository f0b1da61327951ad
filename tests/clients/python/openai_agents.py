"""Runs of `openai-agents` on the Responses API."""

from typing import Any

from agents import (
    Agent,
    ApplyPatchTool,
    CodeInterpreterTool,
    CustomTool,
    HostedMCPTool,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIResponsesCompactionSession,
    OpenAIResponsesModel,
    OpenAIResponsesWSModel,
    Runner,
    RunState,
    ShellTool,
    SQLiteSession,
    WebSearchTool,
    function_tool,
    set_tracing_disabled,
)
from agents.tool import ShellCallOutcome, ShellCommandOutput, ShellResult
from openai import AsyncOpenAI
from openai.types.shared import Reasoning

from tests.clients.python.recorded import recorder

Known = dict[str, Any]


def connect(known: Known) -> Any:
    set_tracing_disabled(True)
    return AsyncOpenAI(
        base_url=known["url"], api_key="any", max_retries=0, default_headers=known.get("headers")
    )


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"-31 degrees, snow in {city}"


async def run(agent: Any, known: Known, question: Any, **more: Any) -> Any:
    if not known["stream"]:
        return await Runner.run(agent, question, **more)
    result = Runner.run_streamed(agent, question, **more)
    async for _ in result.stream_events():
        pass
    return result


async def text(known: Known) -> object:
    agent = Agent(name="Speaker", model=OpenAIResponsesModel("default", connect(known)))
    return (await run(agent, known, known["question"])).final_output


async def tool_loop(known: Known) -> object:
    """Answers the tool call, and asks one more question with the whole history."""
    model = OpenAIResponsesModel("default", connect(known))
    agent = Agent(name="Reporter", model=model, instructions="Be brief.", tools=[function_tool(get_weather)])
    first = await run(agent, known, "What is the weather in Oslo?")
    question = {"role": "user", "content": "Count from 1 to 3"}
    second = await run(agent, known, [*first.to_input_list(), question])
    return [first.final_output, second.final_output]


async def socket(known: Known) -> object:
    """Runs a tool loop, and asks one more question, on one connection that stores nothing on the server."""
    model = OpenAIResponsesWSModel("default", connect(known))
    opened, open_connection = list[str](), model._open_websocket_connection

    async def count(url: str, *more: Any, **options: Any) -> Any:
        opened.append(url)
        return await open_connection(url, *more, **options)

    model._open_websocket_connection = count
    settings = ModelSettings(store=False)
    agent = Agent(name="Reporter", model=model, model_settings=settings, tools=[function_tool(get_weather)])
    first = await run(agent, known, "What is the weather in Oslo?", auto_previous_response_id=True)
    second = await run(agent, known, "Count from 1 to 3", previous_response_id=first.last_response_id)
    await model.close()
    return {"texts": [first.final_output, second.final_output], "connections": len(opened)}


async def stateless(known: Known) -> object:
    """Runs a tool loop that keeps nothing on the server; reports what was sent."""
    client, sent = connect(known), list[Any]()
    client._client.event_hooks["request"].append(recorder(sent))
    settings = ModelSettings(
        store=False,
        response_include=["reasoning.encrypted_content"],
        reasoning=Reasoning(summary="detailed"),
    )
    agent = Agent(
        name="Reporter",
        model=OpenAIResponsesModel("default", client),
        model_settings=settings,
        tools=[function_tool(get_weather)],
    )
    return {"text": (await run(agent, known, "What is the weather in Oslo?")).final_output, "sent": sent}


async def hosted_mcp(known: Known) -> object:
    """`approves`: the answer to an approval request; None if the server's tool needs none."""
    approves = known["approves"]
    server = {
        "type": "mcp",
        "server_label": "test",
        "server_url": known["mcp"],
        "require_approval": "never" if approves is None else "always",
    }
    tool = HostedMCPTool(
        tool_config=server,
        on_approval_request=lambda _: {"approve": approves} if approves is not None else None,
    )
    agent = Agent(name="Adder", model=OpenAIResponsesModel("default", connect(known)), tools=[tool])
    return (await run(agent, known, 'Use test.add with {"a": 2, "b": 3}')).final_output


async def interrupted(known: Known) -> object:
    """Stops for an approval, becomes text, comes back, and goes on with the answer.

    Reports the calls asked about, whether there were any after it, and the text.
    """
    server = {
        "type": "mcp",
        "server_label": "test",
        "server_url": known["mcp"],
        "require_approval": "always",
    }
    tool = HostedMCPTool(tool_config=server)
    agent = Agent(name="Adder", model=OpenAIResponsesModel("default", connect(known)), tools=[tool])
    asked = await run(agent, known, 'Use test.add with {"a": 2, "b": 3}')
    state = await RunState.from_string(agent, asked.to_state().to_string())
    for question in state.get_interruptions():
        if known["approves"]:
            state.approve(question)
        else:
            state.reject(question)
    result = await run(agent, known, state)
    about = [question.raw_item.arguments for question in asked.interruptions]
    return {"about": about, "left": len(result.interruptions), "text": result.final_output}


async def conversation(known: Known) -> object:
    """Runs two turns in a session that is a conversation on the server."""
    client = connect(known)
    session = OpenAIConversationsSession(openai_client=client)
    agent = Agent(name="Counter", model=OpenAIResponsesModel("default", client))
    texts = [(await run(agent, known, f"Count from 1 to {n}", session=session)).final_output for n in (3, 4)]
    return {"texts": texts, "roles": [item["role"] for item in await session.get_items()]}


async def compacted(known: Known) -> object:
    """Runs two turns in a session that is compacted after each; reports the texts, and what is left."""
    client = connect(known)
    kept = SQLiteSession("compacted")
    session = OpenAIResponsesCompactionSession(
        kept.session_id,
        kept,
        client=client,
        model="gpt-oss",
        compaction_mode=known["mode"],
        should_trigger_compaction=lambda _: True,
    )
    session.model = "default"  # a name that it would not have let pass
    agent = Agent(name="Counter", model=OpenAIResponsesModel("default", client))
    texts = [(await run(agent, known, f"Count from 1 to {n}", session=session)).final_output for n in (3, 4)]
    left = [item.get("type") or "message" for item in await session.get_items()]
    kept.close()
    return {"texts": texts, "left": left}


async def code_interpreter(known: Known) -> object:
    """Runs code, and asks once more with the whole history; reports the texts and the calls."""
    tool = CodeInterpreterTool(tool_config={"type": "code_interpreter", "container": {"type": "auto"}})
    settings = ModelSettings(
        response_include=["code_interpreter_call.outputs"] if known["included"] else None
    )
    model = OpenAIResponsesModel("default", connect(known))
    agent = Agent(name="Calculator", model=model, tools=[tool], model_settings=settings)
    first = await run(agent, known, "Multiply 123*456")
    second = await run(agent, known, [*first.to_input_list(), {"role": "user", "content": "Multiply 3*4"}])
    calls = [item.raw_item for item in first.new_items if item.type == "tool_call_item"]
    return {
        "texts": [first.final_output, second.final_output],
        "calls": [[call.type, call.code, call.status] for call in calls],
        "logs": [[output.logs for output in call.outputs or ()] for call in calls],
    }


async def web_search(known: Known) -> object:
    """Searches, and asks once more with the whole history; reports the texts, actions and citations."""
    place = {"type": "approximate", "city": "Oslo"}
    tool = WebSearchTool(user_location=place, search_context_size="low")
    model = OpenAIResponsesModel("default", connect(known))
    agent = Agent(name="Searcher", model=model, tools=[tool])
    first = await run(agent, known, known["question"])
    question = {"role": "user", "content": "Count from 1 to 3"}
    second = await run(agent, known, [*first.to_input_list(), question])
    calls = [item.raw_item for item in first.new_items if item.type == "tool_call_item"]
    said = [item.raw_item for item in first.new_items if item.type == "message_output_item"]
    return {
        "texts": [first.final_output, second.final_output],
        "actions": [call.action.model_dump(exclude_none=True, exclude={"queries"}) for call in calls],
        "cited": [each.url for message in said for part in message.content for each in part.annotations],
    }


class Editor:
    """Applies no diff; says what it was asked to do."""

    def _say(self, operation: Any) -> str:
        return f"{operation.type} {operation.path} {operation.diff}"

    create_file = update_file = delete_file = _say


def run_commands(request: Any) -> Any:
    done = ShellCallOutcome("exit", 0)
    return ShellResult(
        [ShellCommandOutput(f"ran {each}", outcome=done) for each in request.data.action.commands]
    )


async def write(_: Any, text: str) -> str:
    return f"wrote {text}"


GRAMMAR = {"type": "grammar", "syntax": "regex", "definition": ".*"}
CLIENT_TOOLS: dict[str, Any] = {
    "custom": lambda: CustomTool("edit", "Edits.", write, format=GRAMMAR),
    "shell": lambda: ShellTool(run_commands),
    "apply_patch": lambda: ApplyPatchTool(Editor()),
}


async def client_tool(known: Known) -> object:
    """Runs the tool of one kind, and asks one more question with the whole history."""
    model = OpenAIResponsesModel("default", connect(known))
    agent = Agent(name="Worker", model=model, tools=[CLIENT_TOOLS[known["kind"]]()])
    first = await run(agent, known, known["question"])
    question = {"role": "user", "content": "Count from 1 to 3"}
    second = await run(agent, known, [*first.to_input_list(), question])
    return [first.final_output, second.final_output]
