// What users of the `openai` package do all day.

import OpenAI from 'openai';
import { ResponsesWS } from 'openai/resources/responses/ws';

const WEATHER = {
  type: 'function',
  name: 'get_weather',
  strict: true,
  parameters: {
    type: 'object',
    properties: { city: { type: 'string' } },
    required: ['city'],
    additionalProperties: false,
  },
};

const connect = ({ url, headers }) =>
  new OpenAI({ baseURL: url, apiKey: 'any', maxRetries: 0, defaultHeaders: headers });

export async function whole(known) {
  const response = await connect(known).responses.create({ model: 'default', input: 'Count from 1 to 20' });
  return { text: response.output_text, status: response.status };
}

// Events that are not part of the log have no number.
export async function streamed(known) {
  const stream = await connect(known).responses.create({ model: 'default', input: known.question, stream: true });
  const events = [];
  for await (const event of stream) events.push(event);
  return {
    text: events.filter((e) => e.type === 'response.output_text.delta').map((e) => e.delta).join(''),
    numbers: events.map((e) => e.sequence_number).filter((number) => number !== undefined),
    besides: [...new Set(events.filter((e) => e.sequence_number === undefined).map((e) => e.type))],
    last: events.at(-1).type,
  };
}

export async function accumulated_text(known) {
  const stream = connect(known).responses.stream({ model: 'default', input: known.question });
  return (await stream.finalResponse()).output_text;
}

export async function accumulated(known) {
  const stream = connect(known).responses.stream({
    model: 'default',
    input: 'Multiply 123*456',
    tools: [{ type: 'mcp', server_label: 'code_interpreter', server_url: 'IGNORED' }],
  });
  const response = await stream.finalResponse();
  return { text: response.output_text, kinds: response.output.map((item) => item.type) };
}

export async function compacted(known) {
  const client = connect(known);
  const input = [
    { role: 'user', content: 'Hello' },
    { role: 'assistant', content: 'Hello.' },
  ];
  const { object, output } = await client.responses.compact({ model: 'default', input });
  const next = { role: 'user', content: 'Count from 1 to 3' };
  const response = await client.responses.create({ model: 'default', input: [...output, next] });
  return { object, kinds: output.map((item) => item.type), text: response.output_text };
}

export async function socket(known) {
  const ws = new ResponsesWS(connect(known));
  const ask = (input, previous) =>
    ws.send({ type: 'response.create', model: 'default', store: false, input, previous_response_id: previous });
  ask('Count from 1 to 3');
  const texts = [''];
  for await (const { type, message, error } of ws) {
    if (type === 'error') throw error;
    if (type !== 'message') continue;
    if (message.type === 'response.output_text.delta') texts[texts.length - 1] += message.delta;
    if (message.type !== 'response.completed') continue;
    if (texts.length === 2) break;
    texts.push('');
    ask('Count from 1 to 4', message.response.id);
  }
  ws.close();
  return texts;
}

export async function function_loop(known) {
  const client = connect(known);
  const input = [{ role: 'user', content: 'What is the weather in Oslo?' }];
  const first = await client.responses.create({ model: 'default', input, tools: [WEATHER] });
  const call = first.output.at(-1);
  const output = { type: 'function_call_output', call_id: call.call_id, output: '-31 degrees, snow' };
  const second = await client.responses.create({
    model: 'default',
    input: [...input, ...first.output, output],
    tools: [WEATHER],
  });
  return { arguments: JSON.parse(call.arguments), text: second.output_text };
}

export async function resumed(known) {
  const client = connect(known);
  const stream = await client.responses.create({
    model: 'default',
    input: 'Count slowly from 1 to 40',
    background: true,
    stream: true,
  });
  const texts = [];
  let id, last;
  const read = (event) => {
    if (event.type === 'response.created') id = event.response.id;
    if (event.type === 'response.output_text.delta') texts.push(event.delta);
    last = event.sequence_number;
  };
  for await (const event of stream) {
    read(event);
    if (texts.length === 5) break;
  }
  const rest = await client.responses.retrieve(id, { stream: true, starting_after: last });
  for await (const event of rest) read(event);
  return { text: texts.join(''), status: (await client.responses.retrieve(id)).status };
}

export async function conversation(known) {
  const client = connect(known);
  const { id } = await client.conversations.create();
  await client.responses.create({ model: 'default', input: 'Hello', conversation: id });
  await client.responses.create({ model: 'default', input: 'Count from 1 to 3', conversation: id });
  const items = [];
  for await (const item of client.conversations.items.list(id, { order: 'asc' })) items.push(item);
  return items.filter((item) => item.type === 'message').map((item) => [item.role, item.content[0].text]);
}

export async function refused(known) {
  try {
    const answer = await connect(known).responses.create({ model: 'default', input: 'Hello', ...known.body });
    if (known.body.stream) for await (const _event of answer);
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
}

export async function unwrapped(known) {
  const client = connect({ url: 'http://127.0.0.1:1' });
  try {
    const event = await client.webhooks.unwrap(known.body, known.delivered, known.secret);
    return { type: event.type, id: event.data.id };
  } catch (error) {
    return { error: error.constructor.name };
  }
}
