"""The built-in MCP server `code_interpreter` on CPython: notebook cells in processes behind bubblewrap.

Takes the place of `tool_runner/builtin/python.py` behind the same interface (`tool_runner/builtin/cells.py`);
docs/adr/0040-a-sandbox-for-cpython.md says why and how.
"""
