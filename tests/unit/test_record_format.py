"""A reminder: which items and events a record of the present format may contain."""

from typing import get_args

from shared.events import StreamEvent
from shared.input_items import InputItem
from shared.record_format import RECORD_FORMAT
from shared.responses import Item

PINNED_FORMAT = 5
PINNED_TYPES = """
    apply_patch_call
    apply_patch_call_output
    code_interpreter_call
    computer_call
    computer_call_output
    file_search_call
    image_generation_call
    tool_search_call
    tool_search_output
    compaction
    custom_tool_call
    custom_tool_call_output
    function_call
    function_call_output
    local_shell_call
    local_shell_call_output
    mcp_approval_request
    mcp_approval_response
    mcp_call
    mcp_list_tools
    message
    reasoning
    shell_call
    shell_call_output
    web_search_call

    error
    response.code_interpreter_call.completed
    response.code_interpreter_call.in_progress
    response.code_interpreter_call.interpreting
    response.code_interpreter_call_code.delta
    response.code_interpreter_call_code.done
    response.apply_patch_call_operation_diff.delta
    response.apply_patch_call_operation_diff.done
    response.compaction.compacting
    response.completed
    response.content_part.added
    response.content_part.done
    response.created
    response.custom_tool_call_input.delta
    response.custom_tool_call_input.done
    response.failed
    response.function_call_arguments.delta
    response.function_call_arguments.done
    response.in_progress
    response.incomplete
    response.mcp_call.completed
    response.mcp_call.failed
    response.mcp_call.in_progress
    response.mcp_call_arguments.delta
    response.mcp_call_arguments.done
    response.mcp_list_tools.completed
    response.mcp_list_tools.failed
    response.mcp_list_tools.in_progress
    response.output_item.added
    response.output_item.done
    response.output_text.annotation.added
    response.output_text.delta
    response.output_text.done
    response.queued
    response.reasoning.delta
    response.reasoning.done
    response.reasoning_part.added
    response.reasoning_part.done
    response.reasoning_summary_part.added
    response.reasoning_summary_part.done
    response.reasoning_summary_text.delta
    response.reasoning_summary_text.done
    response.reasoning_text.delta
    response.reasoning_text.done
    response.shell_call_command.added
    response.shell_call_command.delta
    response.shell_call_command.done
    response.web_search_call.completed
    response.web_search_call.in_progress
    response.web_search_call.searching
"""


def test_a_new_type_of_item_or_event_raises_the_record_format() -> None:
    """A worker of the previous version could not read a log that contains one."""
    kinds = (*get_args(Item), *get_args(InputItem), *get_args(StreamEvent))
    types = {str(kind.__struct_config__.tag) for kind in kinds}
    assert (RECORD_FORMAT, types) == (PINNED_FORMAT, set(PINNED_TYPES.split())), (
        "Save logs of the previous format, raise RECORD_FORMAT and say what changed "
        "(docs/adr/0022-record-formats.md); then pin the new number together with the new types here."
    )
