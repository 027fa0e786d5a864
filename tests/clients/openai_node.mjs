// OpenAI's SDK for Node.
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { reader, serve, tell } from "./jobs.mjs";

const client = (job) => new OpenAI({ baseURL: `${job.url}/v1`, apiKey: job.key, defaultHeaders: job.fields });
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

// The sources of a whole reply, of a streamed one, of a response, of a streamed one, each as the SDK has them.
async function sources(job) {
  const [{ message }] = (await client(job).chat.completions.create(asked(job))).choices;
  const streamed = [], added = [];
  for await (const { choices } of await client(job).chat.completions.create({ ...asked(job), stream: true }))
    streamed.push(...choices.flatMap(({ delta }) => delta.annotations ?? []));
  const { output } = await client(job).responses.create(response_asked(job));
  for await (const event of await client(job).responses.create({ ...response_asked(job), stream: true }))
    if (event.type === "response.output_text.annotation.added") added.push(event.annotation);
  const whole = output.flatMap(({ content }) => content).flatMap(({ annotations }) => annotations);
  const cited = [message.annotations, streamed].map((list) => list.map((it) => it.url_citation));
  return [...cited, whole, added].map((list) => list.map(({ title, url }) => [title, url]));
}

// --- Responses ------------------------------------------------------------------------------------

const response_asked = ({ model, messages, options: { max_tokens, ...options } = {} }) => ({
  model,
  input: messages,
  max_output_tokens: max_tokens,
  ...options,
});
const text_of = ({ output }, type) =>
  output.filter((item) => item.type === type).flatMap((item) => item.content).map((part) => part.text).join("");
const described = (response) => ({
  // Only a whole response, and that of the helper, has `output_text`.
  text: response.output_text ?? text_of(response, "message"),
  thoughts: text_of(response, "reasoning"),
  usage: response.usage.total_tokens,
  calls: response.output.filter((item) => item.type === "function_call").map((item) => [item.name, item.arguments]),
  status: response.status,
  reason: response.incomplete_details?.reason ?? null,
});

// Tells the words of a stream as they come.
async function read_events(job, events, leave) {
  const saw = reader(job, leave);
  let text = "", usage = null;
  for await (const event of events) {
    if (event.type === "response.output_text.delta") {
      text += event.delta;
      saw(event.delta);
    }
    usage = event.response?.usage?.total_tokens ?? usage;
  }
  return { text, usage };
}

async function response_stream(job) {
  const events = await client(job).responses.create({ ...response_asked(job), stream: true });
  return read_events(job, events, () => events.controller.abort());
}

// The helper follows each step, and throws where one does not fit the others.
async function response_helper(job) {
  const events = client(job).responses.stream(response_asked(job));
  const { text, usage } = await read_events(job, events, () => events.abort());
  const whole = job.leave ? text : (await events.finalResponse()).output_text;
  if (whole !== text) throw new Error(`the response has other words: ${whole}`);
  return { text, usage };
}

const response_whole = async (job) => described(await client(job).responses.create(response_asked(job)));

// The response of the last event.
async function response_last(job) {
  const events = await client(job).responses.create({ ...response_asked(job), stream: true });
  let last;
  for await (const event of events) last = event;
  return described(last.response);
}

// The output goes back as it is, with the result of each call.
async function response_turns(job) {
  const asked = response_asked(job);
  const called = await client(job).responses.stream(asked).finalResponse();
  const results = called.output
    .filter((item) => item.type === "function_call")
    .map((item) => ({ type: "function_call_output", call_id: item.call_id, output: "rain" }));
  const said = await client(job).responses.create({ ...asked, input: [...asked.input, ...called.output, ...results] });
  return { calls: described(called).calls, text: said.output_text };
}

async function response_parsed(job) {
  const text = { format: zodTextFormat(z.object({ city: z.string(), degrees: z.number() }), "Weather") };
  const whole = await client(job).responses.parse({ ...response_asked(job), text });
  const streamed = await client(job).responses.stream({ ...response_asked(job), text }).finalResponse();
  return [whole.output_parsed, streamed.output_parsed];
}

// A stream that is lost goes on behind its last event. Where the job says so, it is cancelled there instead.
async function response_resumed(job) {
  const { responses } = client(job), seen = [];
  let text = "";
  const follow = async (events) => {
    for await (const event of events) {
      seen.push(event);
      if (event.type !== "response.output_text.delta") continue;
      text += event.delta;
      tell({ piece: event.delta });
    }
  };
  await follow(await responses.create({ ...response_asked(job), stream: true })).catch((error) => tell({ lost: error.constructor.name }));
  const { id } = seen[0].response;
  if (job.cancel) await responses.cancel(id);
  await follow(await responses.retrieve(id, { stream: true, starting_after: seen.at(-1).sequence_number }));
  return { text, last: seen.at(-1).type, each_once: seen.every((event, at) => event.sequence_number === at) };
}

const response_kept = async (job) => (await client(job).responses.retrieve("resp_1")).output_text;

const responses = { response_stream, response_helper, response_whole, response_last, response_turns, response_parsed, response_kept, response_resumed };
await serve({ stream, whole, tools, models, sources, ...responses });
