// A stateful MCP server on the TypeScript SDK, with a page for each session: `visit` changes it, `look`
// returns it. `node pages.mjs`; prints its port once it listens.

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { z } from 'zod';

const sessions = new Map();

function openSession() {
  let page = 'about:blank';
  const server = new McpServer({ name: 'pages', version: '1.0.0' });
  const say = (text) => ({ content: [{ type: 'text', text }] });
  server.registerTool(
    'visit',
    { description: 'Opens a page.', inputSchema: { page: z.string() } },
    async (asked) => say((page = asked.page)),
  );
  server.registerTool('look', { description: 'Says which page is open.', inputSchema: {} }, async () => say(page));
  server.registerTool(
    'count_sessions',
    { description: 'Says how many sessions are open.', inputSchema: {} },
    async () => say(String(sessions.size)),
  );
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: () => randomUUID(),
    onsessioninitialized: (id) => sessions.set(id, transport),
    onsessionclosed: (id) => sessions.delete(id),
  });
  return server.connect(transport).then(() => transport);
}

const http = createServer(async (request, response) => {
  const id = request.headers['mcp-session-id'];
  if (id && !sessions.has(id)) {
    response.writeHead(404).end();
    return;
  }
  await (id ? sessions.get(id) : await openSession()).handleRequest(request, response);
});
http.listen(0, '127.0.0.1', () => console.log(http.address().port));
