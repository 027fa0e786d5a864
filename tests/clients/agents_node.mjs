// The Agents SDK for Node. It calls the Responses API.
import diagnostics from "node:diagnostics_channel";
import { Agent, OpenAIResponsesModel, Runner, getGlobalTraceProvider, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
import { reader, serve } from "./jobs.mjs";

// Without this it reports each run to OpenAI.
setTracingDisabled(true);
// Every host that is asked but ours.
const elsewhere = [];
diagnostics.subscribe("undici:request:create", ({ request }) => {
  const { hostname } = new URL(request.origin);
  if (hostname !== "127.0.0.1") elsewhere.push(hostname);
});

const getWeather = tool({
  name: "get_weather",
  description: "The weather of a city.",
  parameters: z.object({ city: z.string() }),
  execute: async () => "rain",
});

function agent(job, ...tools) {
  // By its name alone it would look for a provider called `@cf`.
  const model = new OpenAIResponsesModel(new OpenAI({ baseURL: `${job.url}/v1`, apiKey: job.key }), job.model);
  const modelSettings = { maxTokens: job.options?.max_tokens };
  return new Agent({ name: "A", instructions: "Be short.", model, tools, modelSettings });
}

async function response_stream(job) {
  const controller = new AbortController();
  const saw = reader(job, () => controller.abort());
  const run = await new Runner().run(agent(job), job.messages, { stream: true, signal: controller.signal });
  let text = "";
  for await (const piece of run.toTextStream()) {
    text += piece;
    saw(piece);
  }
  await run.completed;
  return { text, usage: run.state.usage.totalTokens };
}

async function response_whole(job) {
  const run = await new Runner().run(agent(job), job.messages);
  return { text: run.finalOutput, usage: run.state.usage.totalTokens };
}

// It calls the tool by itself, and goes on with the result.
async function response_turns(job) {
  const run = await new Runner().run(agent(job, getWeather), job.messages);
  const calls = run.newItems.filter((item) => item.type === "tool_call_item").map(({ rawItem }) => [rawItem.name, rawItem.arguments]);
  await getGlobalTraceProvider().forceFlush();
  return { calls, text: run.finalOutput, elsewhere };
}

await serve({ response_stream, response_whole, response_turns });
