// useChat of the AI SDK in React. The page keeps its messages for a reload, the unfinished one, too.
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { createElement, useEffect } from "react";
import { createRoot } from "react-dom/client";

const query = new URLSearchParams(location.search);
const api = query.get("api"), id = query.get("id");
const transport = new DefaultChatTransport({ api });
const textOf = ({ parts }) => parts.filter((part) => part.type === "text").map((part) => part.text).join("");

window.shown = []; // each text of the reply that React has drawn
window.ends = [];
window.halt = () => fetch(`${api}/${id}/stop`, { method: "POST" }).then((response) => response.json());

function Chat() {
  const onFinish = ({ isAbort, isDisconnect, isError }) => ends.push([isAbort, isDisconnect, isError]);
  const kept = JSON.parse(sessionStorage.getItem(id) ?? "[]");
  const { messages, status, error, sendMessage } = useChat({ id, messages: kept, resume: true, transport, onFinish });
  useEffect(() => {
    sessionStorage.setItem(id, JSON.stringify(messages));
    const last = messages.at(-1);
    if (last?.role === "assistant" && textOf(last) !== shown.at(-1)) shown.push(textOf(last));
    Object.assign(window, { messages, status, fault: error?.message, ask: (text) => void sendMessage({ text }), ready: true });
  });
  return messages.map((message) => createElement("p", { key: message.id }, textOf(message)));
}

createRoot(document.getElementById("root")).render(createElement(Chat));
