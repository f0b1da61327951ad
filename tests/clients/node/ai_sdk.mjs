// Vercel's AI SDK with `@ai-sdk/openai`, which validates every object it gets.

import { generateText, stepCountIs, streamText, tool } from 'ai';
import { createOpenAI } from '@ai-sdk/openai';
import { z } from 'zod';

const connect = ({ url, headers }) => createOpenAI({ baseURL: url, apiKey: 'any', headers });

export const weather = tool({
  description: 'The weather of a city.',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `-31 degrees, snow in ${city}`,
});

// Without and with streaming; an error within a stream is thrown.
export async function ask(isStreamed, options) {
  if (!isStreamed) {
    const result = await generateText({ ...options, maxRetries: 0 });
    return { text: result.text, content: result.content, steps: result.steps.length, messages: result.response.messages, usage: result.totalUsage };
  }
  const result = streamText({ ...options, maxRetries: 0, onError: () => {} });
  for await (const part of result.fullStream) if (part.type === 'error') throw part.error;
  return {
    text: await result.text,
    content: await result.content,
    steps: (await result.steps).length,
    messages: (await result.response).messages,
    usage: await result.totalUsage,
  };
}

export async function text(known) {
  const model = connect(known).responses('default');
  const { text, usage } = await ask(known.stream, { model, prompt: known.question });
  return { text, sums: usage.inputTokens + usage.outputTokens === usage.totalTokens };
}

export async function tool_loop(known) {
  const { text, steps } = await ask(known.stream, {
    model: connect(known).responses('default'),
    prompt: 'What is the weather in Oslo?',
    tools: { get_weather: weather },
    stopWhen: stepCountIs(3),
  });
  return { text, steps };
}

// An agent that keeps nothing on the server: what it sends with its second call is all that the model reads.
export async function stateless(known) {
  const sent = [];
  const fetch = (url, init) => {
    sent.push(JSON.parse(init.body));
    return globalThis.fetch(url, init);
  };
  const openai = createOpenAI({ baseURL: known.url, apiKey: 'any', fetch });
  const { text, content } = await ask(known.stream, {
    model: openai.responses('default'),
    prompt: 'What is the weather in Oslo?',
    tools: { get_weather: weather },
    stopWhen: stepCountIs(3),
    providerOptions: { openai: { store: false, forceReasoning: true, reasoningSummary: 'auto' } },
  });
  const shown = content.filter((part) => part.type === 'reasoning').map((part) => part.text);
  return { text, sent, shown };
}

export async function hosted_mcp(known) {
  const openai = connect(known);
  const tools = { mcp: openai.tools.mcp({ serverLabel: 'test', serverUrl: known.mcp, requireApproval: known.approval }) };
  const options = { model: openai.responses('default'), tools };
  const messages = [{ role: 'user', content: 'Use test.add with {"a": 2, "b": 3}' }];
  const first = await ask(known.stream, { ...options, messages });
  const asked = first.content.filter((part) => part.type === 'tool-approval-request');
  if (!asked.length) return { asked: 0, text: first.text };
  const answers = asked.map(({ approvalId }) => ({
    type: 'tool-approval-response',
    approvalId,
    approved: known.approves,
    providerExecuted: true,
  }));
  messages.push(...first.messages, { role: 'tool', content: answers });
  const { text } = await ask(known.stream, { ...options, messages });
  return { asked: asked.length, text };
}

export async function failure(known) {
  try {
    await ask(known.stream, { model: connect(known).responses('default'), prompt: known.question });
  } catch (error) {
    return error.message ?? JSON.stringify(error);
  }
}

export async function code_interpreter(known) {
  const openai = connect(known);
  const options = { model: openai.responses('default'), tools: { code: openai.tools.codeInterpreter() } };
  const messages = [{ role: 'user', content: 'Multiply 123*456' }];
  const first = await ask(known.stream, { ...options, messages });
  const called = first.content.filter((part) => part.type === 'tool-call');
  const results = first.content.filter((part) => part.type === 'tool-result');
  const more = { role: 'user', content: 'Multiply 3*4' };
  const second = await ask(known.stream, { ...options, messages: [...messages, ...first.messages, more] });
  return { texts: [first.text, second.text], codes: called.map(({ input }) => input.code), outputs: results.map(({ output }) => output.outputs) };
}

// A custom tool takes the text itself, not an object.
const runCommands = (commands) => commands.map((command) => ({ stdout: `ran ${command}`, stderr: '', outcome: { type: 'exit', exitCode: 0 } }));
const clientTools = {
  custom: (tools) => ({
    edit: tools.customTool({ description: 'Edits.', format: { type: 'grammar', syntax: 'regex', definition: '.*' }, execute: async (text) => `wrote ${text}` }),
  }),
  shell: (tools) => ({ shell: tools.shell({ execute: async ({ action }) => ({ output: runCommands(action.commands) }) }) }),
  apply_patch: (tools) => ({
    apply_patch: tools.applyPatch({ execute: async ({ operation: { type, path, diff } }) => ({ status: 'completed', output: `${type} ${path} ${diff}` }) }),
  }),
};

export async function client_tool(known) {
  const openai = connect(known);
  const options = { model: openai.responses('default'), tools: clientTools[known.kind](openai.tools), stopWhen: stepCountIs(3) };
  const messages = [{ role: 'user', content: known.question }];
  const first = await ask(known.stream, { ...options, messages });
  const more = { role: 'user', content: 'Count from 1 to 3' };
  const second = await ask(known.stream, { ...options, messages: [...messages, ...first.messages, more] });
  return [first.text, second.text];
}

export async function web_search(known) {
  const openai = connect(known);
  const tool = openai.tools.webSearch({
    searchContextSize: 'low',
    filters: { allowedDomains: ['antiphon.example'] },
    userLocation: { type: 'approximate', city: 'Oslo', country: 'NO' },
  });
  const options = { model: openai.responses('default'), tools: { web_search: tool } };
  const messages = [{ role: 'user', content: known.question }];
  const first = await ask(known.stream, { ...options, messages });
  const found = first.content.filter((part) => part.type === 'source').map(({ url }) => url);
  const cited = first.content
    .filter((part) => part.type === 'text')
    .flatMap(({ text, citations = [] }) => citations.map(({ source, startIndex, endIndex }) => [text.slice(startIndex, endIndex), source.url, source.title]));
  const results = first.content.filter((part) => part.type === 'tool-result').map(({ output }) => output);
  const more = { role: 'user', content: 'Count from 1 to 3' };
  const second = await ask(known.stream, { ...options, messages: [...messages, ...first.messages, more] });
  return { texts: [first.text, second.text], found, cited, actions: results.map(({ action }) => action), sources: results[0].sources };
}
