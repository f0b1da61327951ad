// Runs of `@openai/agents`, which validates every usage, and its state when that is serialized.

import { Agent, RunState, applyPatchTool, codeInterpreterTool, hostedMcpTool, run, setDefaultOpenAIClient, setTracingDisabled, shellTool, tool, webSearchTool } from '@openai/agents';
import OpenAI from 'openai';
import { z } from 'zod';

function connect({ url, headers }) {
  setTracingDisabled(true);
  setDefaultOpenAIClient(new OpenAI({ baseURL: url, apiKey: 'any', maxRetries: 0, defaultHeaders: headers }));
}

const weather = tool({
  name: 'get_weather',
  description: 'The weather of a city.',
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => `-31 degrees, snow in ${city}`,
});

const withMcp = (known, requireApproval) =>
  new Agent({
    name: 'Adder',
    model: 'default',
    tools: [hostedMcpTool({ serverLabel: 'test', serverUrl: known.mcp, requireApproval })],
  });

const ADD = 'Use test.add with {"a": 2, "b": 3}';

async function runStreamed(agent, input, options) {
  const result = await run(agent, input, { ...options, stream: true });
  for await (const _event of result);
  await result.completed;
  return result;
}

export async function text(known) {
  connect(known);
  const agent = new Agent({ name: 'Speaker', model: 'default' });
  const result = await (known.stream ? runStreamed : run)(agent, known.question);
  return result.finalOutput;
}

export async function streamed_run(known) {
  connect(known);
  const agent = new Agent({ name: 'Reporter', model: 'default', instructions: 'Be brief.', tools: [weather] });
  const result = await runStreamed(agent, 'What is the weather in Oslo?');
  const restored = await RunState.fromString(agent, result.state.toString());
  const { usage } = restored;
  return { text: result.finalOutput, turns: usage.requests, sums: usage.totalTokens === usage.inputTokens + usage.outputTokens };
}

export async function chained_runs(known) {
  connect(known);
  const agent = withMcp(known, 'never');
  const first = await runStreamed(agent, ADD);
  const second = await run(agent, ADD, { previousResponseId: first.lastResponseId });
  const third = await run(agent, [...first.history, { role: 'user', content: ADD }]);
  return [first.finalOutput, second.finalOutput, third.finalOutput];
}

// An approval may take days: the state is serialized meanwhile, and the run continues from it.
export async function approval(known) {
  connect(known);
  const agent = withMcp(known, 'always');
  const asked = await runStreamed(agent, ADD);
  const kept = asked.state.toString();
  const state = await RunState.fromString(agent, kept);
  for (const interruption of state.getInterruptions()) state.approve(interruption);
  const done = await runStreamed(agent, state);
  return { asked: asked.interruptions.length, text: done.finalOutput };
}

export async function code_interpreter(known) {
  connect(known);
  const tools = [codeInterpreterTool({ includeOutputs: known.included })];
  const agent = new Agent({ name: 'Calculator', model: 'default', tools });
  const first = await (known.stream ? runStreamed : run)(agent, 'Multiply 123*456');
  const second = await run(agent, [...first.history, { role: 'user', content: 'Multiply 3*4' }]);
  const calls = first.newItems.filter(({ rawItem }) => rawItem.type === 'hosted_tool_call').map(({ rawItem }) => rawItem);
  return {
    texts: [first.finalOutput, second.finalOutput],
    calls: calls.map(({ name, status, providerData }) => [name, status, providerData.code, providerData.outputs]),
  };
}

export async function web_search(known) {
  connect(known);
  const agent = new Agent({ name: 'Searcher', model: 'default', tools: [webSearchTool()] });
  const first = await (known.stream ? runStreamed : run)(agent, known.question);
  const second = await run(agent, [...first.history, { role: 'user', content: 'Count from 1 to 3' }]);
  const calls = first.newItems.filter(({ rawItem }) => rawItem.type === 'hosted_tool_call').map(({ rawItem }) => rawItem);
  return {
    texts: [first.finalOutput, second.finalOutput],
    actions: calls.map(({ providerData: { action: { queries: _queries, ...action } } }) => action),
  };
}

// Applies no diff, and runs no command; both say what they were asked to do.
const say = async ({ type, path, diff }) => ({ output: `${type} ${path} ${diff}` });
const runCommands = async ({ commands }) => ({
  output: commands.map((command) => ({ stdout: `ran ${command}`, stderr: '', outcome: { type: 'exit', exitCode: 0 } })),
});

const clientTools = {
  shell: () => shellTool({ shell: { run: runCommands } }),
  apply_patch: () => applyPatchTool({ editor: { createFile: say, updateFile: say, deleteFile: say } }),
};

// The second question comes with the whole history.
export async function client_tool(known) {
  connect(known);
  const agent = new Agent({ name: 'Worker', model: 'default', tools: [clientTools[known.kind]()] });
  const ask = known.stream ? runStreamed : run;
  const first = await ask(agent, known.question);
  const second = await ask(agent, [...first.history, { role: 'user', content: 'Count from 1 to 3' }]);
  return [first.finalOutput, second.finalOutput];
}
