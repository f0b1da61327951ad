// Vercel's AI SDK with its provider for servers of the Open Responses specification.

import { createOpenResponses } from '@ai-sdk/open-responses';
import { stepCountIs } from 'ai';
import { ask, weather } from './ai_sdk.mjs';

const connect = ({ url, headers }) =>
  createOpenResponses({ name: 'antiphon', url: `${url}/responses`, apiKey: 'any', headers });

export async function text(known) {
  const { text, content } = await ask(known.stream, { model: connect(known)('default'), prompt: known.question });
  return { text, reasoning: content.filter((part) => part.type === 'reasoning').map((part) => part.text) };
}

export async function tool_loop(known) {
  const { text, steps } = await ask(known.stream, {
    model: connect(known)('default'),
    prompt: 'What is the weather in Oslo?',
    tools: { get_weather: weather },
    stopWhen: stepCountIs(3),
  });
  return { text, steps };
}
