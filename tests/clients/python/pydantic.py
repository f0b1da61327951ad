"""Agents of `pydantic-ai` on the Responses API."""

from typing import Any

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.capabilities import NativeTool
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.native_tools import CodeExecutionTool, MCPServerTool, WebSearchTool
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.python.recorded import recorder

Known = dict[str, Any]


def connect(known: Known) -> Any:
    client = AsyncOpenAI(
        base_url=known["url"], api_key="any", max_retries=0, default_headers=known.get("headers")
    )
    return OpenAIResponsesModel("default", provider=OpenAIProvider(openai_client=client))


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"-31 degrees, snow in {city}"


async def run(agent: Any, known: Known, question: str, **more: Any) -> tuple[str, list[Any]]:
    """Reports the output and the whole history."""
    if not known["stream"]:
        result = await agent.run(question, **more)
        return result.output, result.all_messages()
    async with agent.run_stream(question, **more) as stream:
        return await stream.get_output(), stream.all_messages()


async def text(known: Known) -> object:
    return (await run(Agent(connect(known)), known, known["question"]))[0]


async def tool_loop(known: Known) -> object:
    """Answers the tool call, and asks one more question with the history: in full, and by the previous
    response's id."""
    agent = Agent(connect(known), tools=[get_weather])
    text, history = await run(agent, known, "What is the weather in Oslo?")
    chained = OpenAIResponsesModelSettings(openai_previous_response_id="auto")
    in_full, _ = await run(agent, known, "Count from 1 to 3", message_history=history)
    by_id, _ = await run(agent, known, "Count from 1 to 3", message_history=history, model_settings=chained)
    return [text, in_full, by_id]


async def stateless(known: Known) -> object:
    """Runs a tool loop that keeps nothing on the server, as with a model that has encrypted reasoning."""
    model, sent = connect(known), list[Any]()
    model.client._client.event_hooks["request"].append(recorder(sent))
    profile = OpenAIModelProfile(openai_supports_encrypted_reasoning_content=True)
    model = OpenAIResponsesModel(
        "default", provider=OpenAIProvider(openai_client=model.client), profile=profile
    )
    settings = OpenAIResponsesModelSettings(openai_store=False, openai_reasoning_summary="concise")
    agent = Agent(model, tools=[get_weather], model_settings=settings)
    text, _ = await run(agent, known, "What is the weather in Oslo?")
    return {"text": text, "sent": sent}


async def hosted_mcp(known: Known) -> object:
    agent = Agent(connect(known), capabilities=[NativeTool(MCPServerTool(id="test", url=known["mcp"]))])
    question = 'Use test.add with {"a": 2, "b": 3}'
    text, history = await run(agent, known, question)
    again, _ = await run(agent, known, question, message_history=history)
    return [text, again]


async def code_interpreter(known: Known) -> object:
    """Runs code as a tool of its own, or as the `mcp` tool of that label; asks once more with the history.

    Reports the texts, the code of each call, and what it returned.
    """
    tool = MCPServerTool(id="code_interpreter", url="IGNORED") if known["by_label"] else CodeExecutionTool()
    settings = OpenAIResponsesModelSettings(openai_include_code_execution_outputs=known["included"])
    agent = Agent(connect(known), capabilities=[NativeTool(tool)], model_settings=settings)
    text, history = await run(agent, known, "Multiply 123*456")
    again, _ = await run(agent, known, "Multiply 3*4", message_history=history)
    parts = [part for message in history for part in message.parts]
    calls = [part.args_as_dict() for part in parts if part.part_kind == "builtin-tool-call"]
    returned = [part.content for part in parts if part.part_kind == "builtin-tool-return"]
    return {"texts": [text, again], "calls": calls, "returned": returned}


async def web_search(known: Known) -> object:
    """Searches, and asks once more with the history; reports the texts, and what was called and returned."""
    settings = OpenAIResponsesModelSettings(openai_include_web_search_sources=known["included"])
    tool = WebSearchTool(search_context_size="low", allowed_domains=["antiphon.example"])
    agent = Agent(connect(known), capabilities=[NativeTool(tool)], model_settings=settings)
    text, history = await run(agent, known, known["question"])
    again, _ = await run(agent, known, "Count from 1 to 3", message_history=history)
    parts = [part for message in history for part in message.parts]
    calls = [part.args_as_dict() for part in parts if part.part_kind == "builtin-tool-call"]
    returned = [part.content for part in parts if part.part_kind == "builtin-tool-return"]
    return {"texts": [text, again], "calls": calls, "returned": returned}
