// The AI SDK: its chat, as useChat has it, over both transports, and its provider of OpenAI-compatible models.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { AbstractChat, DefaultChatTransport, TextStreamChatTransport, generateId, generateText, jsonSchema, streamText, tool } from "ai";
import { reader, serve } from "./jobs.mjs";

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
  await chat.sendMessage({ text: job.messages.at(-1).content });
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

// One click must not be nine calls: this provider knows no x-should-retry.
const asked = ({ url, key, model, messages, options = {} }) => ({
  model: createOpenAICompatible({ name: "cfchat", baseURL: `${url}/v1`, apiKey: key, includeUsage: true })(model),
  messages,
  maxOutputTokens: options.max_tokens,
  maxRetries: options.retries ?? 0,
});

async function provider(job) {
  const controller = new AbortController();
  const saw = reader(job, () => controller.abort());
  let text = "", thoughts = "", end = {};
  const stream = streamText({ ...asked(job), abortSignal: controller.signal, onError: () => {} });
  for await (const part of stream.fullStream) {
    if (part.type === "text-delta") {
      text += part.text;
      saw(part.text);
    } else if (part.type === "reasoning-delta") thoughts += part.text;
    else if (part.type === "error") throw part.error;
    else if (part.type === "finish" || part.type === "abort") end = part;
  }
  return { text, thoughts, usage: end.totalUsage?.totalTokens ?? null, aborted: end.type === "abort" };
}

async function whole(job) {
  const { text, reasoningText, usage } = await generateText(asked(job));
  return { text, thoughts: reasoningText ?? "", usage: usage.totalTokens };
}

// Calls as streamText puts them together.
async function tools(job) {
  const named = job.options.tools.map(({ function: { name, parameters } }) => [name, tool({ inputSchema: jsonSchema(parameters) })]);
  const stream = streamText({ ...asked(job), tools: Object.fromEntries(named) });
  return { reason: await stream.finishReason, calls: (await stream.toolCalls).map((call) => [call.toolName, call.input]) };
}

await serve({ text, ui, resume, provider, whole, tools });
