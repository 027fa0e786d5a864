// A client's side of its process: jobs come in, what the client shows goes out.
import { createInterface } from "node:readline";

export const tell = (seen) => process.stdout.write(JSON.stringify(seen) + "\n");

// A job's `way` says which of these does it; then its value is told, or the class of its exception.
export async function serve(ways) {
  for await (const line of createInterface({ input: process.stdin })) {
    const job = JSON.parse(line);
    try {
      tell({ end: await ways[job.way](job) });
    } catch (error) {
      tell(fault(error));
    }
  }
}

// The AI SDK's classes are told by their names, OpenAI's by their constructors. An event of an error may be thrown as it is.
const fault = (error) => ({
  error: error?.name && error.name !== "Error" ? error.name : error?.constructor?.name,
  status: error?.statusCode ?? error?.status ?? null,
  message: error?.message ?? error?.error?.message ?? String(error),
});

// Tells each piece; leaves behind the first where the job says so.
export const reader = (job, leave) => {
  let left = false;
  return (piece) => {
    if (!piece) return;
    tell({ piece });
    if (!job.leave || left) return;
    left = true;
    const now = Date.now() / 1000;
    leave();
    tell({ left: now });
  };
};
