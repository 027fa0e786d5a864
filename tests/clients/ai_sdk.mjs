// The AI SDK: its chat, as useChat has it, over both transports; its provider of OpenAI-compatible models, and that of
// OpenAI's, which calls the Responses API unless it is told otherwise.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  AbstractChat, DefaultChatTransport, TextStreamChatTransport, convertToModelMessages, generateId, generateObject,
  generateText, jsonSchema, streamObject, streamText, tool,
} from "ai";
import { reader, serve } from "./jobs.mjs";

// It would write them among what is told.
globalThis.AI_SDK_LOG_WARNINGS = false;

const wordsOf = (message, type) => message.parts.filter((part) => part.type === type).map((part) => part.text).join("");
const textOf = (message) => wordsOf(message, "text");

// What useChat keeps in React's state.
class State {
  status = "ready";
  error = undefined;
  messages = [];
  constructor(changed) {
    this.changed = changed;
  }
  pushMessage(message) {
    this.messages = [...this.messages, message];
    this.changed(message);
  }
  popMessage() {
    this.messages = this.messages.slice(0, -1);
  }
  replaceMessage(index, message) {
    this.messages = this.messages.map((kept, at) => (at === index ? this.snapshot(message) : kept));
    this.changed(message);
  }
  snapshot(thing) {
    return structuredClone(thing);
  }
}

class Chat extends AbstractChat {}

async function talk(job, transport) {
  let seen = "", end;
  const saw = reader(job, () => chat.stop());
  const state = new State((message) => {
    if (message.role !== "assistant") return;
    const text = textOf(message);
    saw(text.slice(seen.length));
    seen = text;
  });
  state.messages = job.earlier ?? [];
  const chat = new Chat({ transport, state, generateId: generateId, onFinish: (how) => { end = how; } });
  await chat.sendMessage({ text: job.messages.at(-1).content, files: job.files });
  if (chat.status === "error") throw chat.error;
  const last = chat.messages.at(-1);
  const usage = last.metadata?.usage?.totalTokens ?? null, thoughts = wordsOf(last, "reasoning");
  return { text: textOf(last), thoughts, usage, aborted: end.isAbort, parts: last.parts.length };
}

const headers = (job) => ({ Authorization: `Bearer ${job.key}` });
const body = (job) => ({ model: job.model, ...job.options });
const text = (job) => talk(job, new TextStreamChatTransport({ api: `${job.url}/api/chatbot`, headers: headers(job), body: body(job) }));
const ui = (job) => talk(job, new DefaultChatTransport({ api: `${job.url}/api/chat`, headers: headers(job), body: body(job) }));
// Nothing is to be resumed.
const resume = async (job) => {
  const transport = new DefaultChatTransport({ api: `${job.url}/api/chat`, headers: headers(job) });
  return await transport.reconnectToStream({ chatId: "c1" });
};

const compatible = ({ url, key, model }) => createOpenAICompatible({ name: "cfchat", baseURL: `${url}/v1`, apiKey: key, includeUsage: true })(model);
const openai = ({ url, key, model }) => createOpenAI({ baseURL: `${url}/v1`, apiKey: key })(model);

// What useChat sends a server that calls a provider itself.
const messagesOf = ({ messages, files }) => {
  if (!files) return messages;
  const [{ content }] = messages;
  return convertToModelMessages([{ id: "m1", role: "user", parts: [{ type: "text", text: content }, ...files] }]);
};

// One click must not be nine calls: these providers know no x-should-retry.
const asked = async (job, model) => ({
  model: model(job),
  messages: await messagesOf(job),
  maxOutputTokens: job.options?.max_tokens,
  maxRetries: job.options?.retries ?? 0,
  providerOptions: { openai: job.options?.openai ?? {} },
});

const streamed = (model) => async (job) => {
  const controller = new AbortController();
  const saw = reader(job, () => controller.abort());
  let text = "", thoughts = "", end = {};
  const stream = streamText({ ...(await asked(job, model)), abortSignal: controller.signal, onError: () => {} });
  for await (const part of stream.fullStream) {
    if (part.type === "text-delta") {
      text += part.text;
      saw(part.text);
    } else if (part.type === "reasoning-delta") thoughts += part.text;
    else if (part.type === "error") throw part.error;
    else if (part.type === "finish" || part.type === "abort") end = part;
  }
  const usage = end.totalUsage?.totalTokens ?? null;
  return { text, thoughts, usage, reason: end.finishReason ?? null, aborted: end.type === "abort" };
};

const whole = (model) => async (job) => {
  const { text, reasoningText, usage, finishReason } = await generateText(await asked(job, model));
  return { text, thoughts: reasoningText ?? "", usage: usage.totalTokens, reason: finishReason };
};

const toolsOf = (job) =>
  Object.fromEntries(
    job.options.tools.map(({ function: { name, parameters } }) => [name, tool({ inputSchema: jsonSchema(parameters) })]),
  );
const callsOf = (calls) => calls.map((call) => [call.toolName, call.input]);

// Calls as streamText puts them together.
const tools = (model) => async (job) => {
  const stream = streamText({ ...(await asked(job, model)), tools: toolsOf(job) });
  return { reason: await stream.finishReason, calls: callsOf(await stream.toolCalls) };
};

// What came back is what goes on: the calls with their results, or the words with another question.
const turns = (model) => async (job) => {
  const { tools = [] } = job.options ?? {};
  const first = streamText({ ...(await asked(job, model)), ...(tools.length ? { tools: toolsOf(job) } : {}), onError: () => {} });
  const [{ messages }, called] = [await first.response, await first.toolCalls];
  const results = called.map(({ toolCallId, toolName }) => ({
    type: "tool-result", toolCallId, toolName, output: { type: "text", value: "rain" },
  }));
  const next = results.length ? { role: "tool", content: results } : { role: "user", content: "And you?" };
  const { text } = await generateText(await asked({ ...job, messages: [...job.messages, ...messages, next] }, model));
  return { calls: callsOf(called), text };
};

const schema = { type: "object", properties: { city: { type: "string" }, degrees: { type: "number" } }, required: ["city", "degrees"] };
const parsed = (model) => async (job) => {
  const options = { ...(await asked(job, model)), schema: jsonSchema({ ...schema, additionalProperties: false }), schemaName: "Weather" };
  const stream = streamObject(options);
  for await (const _ of stream.partialObjectStream);
  return [(await generateObject(options)).object, await stream.object];
};

const responses = {
  response_stream: streamed(openai),
  response_last: streamed(openai),
  response_whole: whole(openai),
  response_tools: tools(openai),
  response_turns: turns(openai),
  response_parsed: parsed(openai),
};
await serve({
  text, ui, resume, provider: streamed(compatible), whole: whole(compatible), tools: tools(compatible), ...responses,
});
