// OpenAI's SDK for Node.
import OpenAI from "openai";
import { reader, serve } from "./jobs.mjs";

const client = (job) => new OpenAI({ baseURL: `${job.url}/v1`, apiKey: job.key });
const asked = (job) => ({ model: job.model, messages: job.messages, ...job.options });
const callsOf = (message) => (message.tool_calls ?? []).map((call) => [call.function.name, call.function.arguments]);

async function stream(job) {
  const chunks = await client(job).chat.completions.create({
    ...asked(job),
    stream: true,
    stream_options: { include_usage: true },
  });
  const saw = reader(job, () => chunks.controller.abort());
  let text = "", usage = null;
  for await (const chunk of chunks) {
    const piece = chunk.choices[0]?.delta.content ?? "";
    text += piece;
    usage = chunk.usage?.total_tokens ?? usage;
    saw(piece);
  }
  return { text, usage };
}

async function whole(job) {
  const reply = await client(job).chat.completions.create(asked(job));
  const [{ message, finish_reason: reason }] = reply.choices;
  return { text: message.content, usage: reply.usage?.total_tokens, reason, calls: callsOf(message) };
}

// Calls as the SDK's own helper puts them together from a stream.
async function tools(job) {
  const [{ message, finish_reason: reason }] = (await client(job).chat.completions.stream(asked(job)).finalChatCompletion()).choices;
  return { reason, calls: callsOf(message) };
}

async function models(job) {
  const list = [];
  for await (const model of client(job).models.list()) list.push(model.id);
  return [list, (await client(job).models.retrieve(job.model)).id];
}

await serve({ stream, whole, tools, models });
