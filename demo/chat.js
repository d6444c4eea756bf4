// The chat page: a model from a file or from the server, a conversation with it, and what goes wrong as sentences.

import { Engine } from "./engine.js";
import { amount, size } from "./units.js";

const at = (id) => document.getElementById(id);
const engine = new Engine();

let state = "empty"; // empty, loading, ready, answering or gone: the model is, the conversation is not
let call = null; // the engine's command under way
let task = null; // a promise: what goes on has ended, on the page too
let source = null; // {name, files} or {name, url} of the model
let wanted = null; // the last one asked for; those before it that still wait are not loaded
let loaded = null; // what `load` told about it
let messages = []; // the conversation, as the model gets it

// --- The page's state ---

function enter(next) {
  state = document.body.dataset.state = next;
  const usable = next === "ready" || next === "answering";
  const chatting = usable || next === "gone";
  at("welcome").hidden = next !== "empty";
  at("loading").hidden = next !== "loading";
  at("log").hidden = !chatting;
  at("new-chat").hidden = !usable;
  at("other").hidden = !chatting;
  at("send").hidden = next === "answering";
  at("stop").hidden = next !== "answering";
  at("stop").disabled = at("cancel").disabled = false;
  at("question").disabled = !chatting;
  at("question").placeholder = chatting ? "Ask something" : "Load a model first";
  at("below").hidden = !usable;
  at("model").textContent = chatting ? source.name.replace(/\.gguf$/i, "") : "";
  at("model").title = loaded?.name ?? "";
  allowSend();
}

function allowSend() {
  at("send").disabled = state !== "ready" || !at("question").value.trim();
}

// For screen readers only.
function announce(sentence) {
  at("status").textContent = sentence;
}

function fail(sentence, button = null) {
  at("error").replaceChildren(sentence, ...(button ? [" ", button] : []));
  showError();
}

const showError = () => at("error").scrollIntoView({ block: "nearest" });
addEventListener("resize", () => at("error").firstChild && showError());

function stop() {
  at("stop").disabled = at("cancel").disabled = true; // once is enough; it ends when the GPU's work in flight has
  if (call) engine.cancel(call.id);
}

// Ends what goes on, then does the next thing; what is asked for meanwhile waits for that in turn.
function instead(next) {
  stop();
  const before = task;
  task = (async () => {
    await before;
    await next();
  })();
}

// --- Loading ---

const PHASES = ["python", "header", "weights", "pipelines"];

function showPhase(progress) {
  const { phase, done = 0, total = 0 } = progress;
  const now = PHASES.indexOf(phase);
  for (const [here, item] of at("loading").querySelectorAll("li").entries()) {
    const [name, told, bar] = item.children;
    if (here === now && item.dataset.stage !== "now") announce(name.textContent);
    item.dataset.stage = here < now ? "done" : here === now ? "now" : "later";
    if (here > now) told.textContent = "";
    if (here === now) told.textContent = amount(progress);
    if (!bar) continue;
    bar.value = here < now ? 1 : here > now || !total ? 0 : done / total;
  }
}

engine.onready = () => {
  if (state === "loading") showPhase({ phase: "header" });
};

// Commands under way tell it themselves.
engine.onended = (error) => {
  if (state === "ready") lose(error);
};

// The model is gone, and with a press of a button it is there again.
function lose(error) {
  loaded = null;
  at("tuning").hidden = true;
  enter("gone");
  fail(error.type === "Cancelled" ? "The model is not loaded." : error.message, wayOut({ type: "PythonEnded" }));
}

async function load(next) {
  fail("");
  // A file that cannot be a model does not cost the one that is loaded.
  const objection = next.files && (await objectionTo(next.files));
  if (objection) return fail(objection);
  wanted = next;
  instead(() => next === wanted && loading(next));
}

async function loading(next) {
  const again = next === source;
  [source, loaded] = [next, null];
  if (!again) forget();
  fail(""); // of what ended for this
  enter("loading");
  at("tuning").hidden = true;
  at("loading-title").textContent = `Loading ${next.name}`;
  at("loading-title").focus();
  showPhase({ phase: engine.isReady ? "header" : "python" });
  if (next.url) navigator.storage?.persist?.(); // a worker cannot ask that its models stay
  call = engine.call("load", { model: next.url, cache: true, ...settings() }, showPhase, next.files);
  try {
    loaded = await call.result;
  } catch (error) {
    if (again && messages.length) return lose(error);
    enter("empty");
    if (!error.stopped) fail(error.message);
    return at("file").focus();
  } finally {
    call = null;
  }
  enter("ready");
  for (const warning of loaded.warnings) remark(at("log"), warning);
  showFacts(loaded);
  announce(`${next.name} is ready.`);
  at("question").focus();
}

// Kernels are timed while nobody waits, once a GPU; an answer may be slower until then, and is the same.
engine.onlate = (progress) => {
  if (progress.phase !== "tuning" || !loaded) return;
  at("tuning").hidden = progress.done >= progress.total;
  at("tuning").textContent = `Finding this GPU’s fastest kernels, while nothing else is to do: ${amount(progress)}`;
};

// What holds for a model from its loading on.
function settings() {
  const number = (id) => (at(id).value === "" ? null : Number(at(id).value));
  const format = at("cache").value;
  return { context: number("context"), memory_budget: number("budget"), type_k: format, type_v: format };
}

async function objectionTo(files) {
  for (const file of files) {
    try {
      const magic = await file.slice(0, 4).text();
      if (magic !== "GGUF") return `${file.name} is not a GGUF file; choose a model in that format.`;
    } catch {
      return `${file.name} cannot be read; choose a GGUF file.`;
    }
  }
  return "";
}

// --- The conversation ---

function forget() {
  messages = [];
  at("log").replaceChildren();
}

function turn(role, text) {
  const item = document.createElement("article");
  item.className = role;
  const who = document.createElement("h3");
  who.className = "unseen";
  who.textContent = role === "user" ? "You" : "The model";
  const words = document.createElement("div");
  words.className = "words";
  // Text, never markup: the model may write anything.
  const node = document.createTextNode(text);
  words.append(node);
  item.append(who, words);
  at("log").append(item);
  return { item, node };
}

function remark(item, text) {
  const line = document.createElement("p");
  line.className = "quiet";
  line.textContent = text;
  item.append(line);
}

// Follows the text as it comes, unless the reader has scrolled up.
function following(change) {
  const view = at("main");
  const follow = view.scrollHeight - view.scrollTop - view.clientHeight < 80;
  change();
  if (follow) view.scrollTop = view.scrollHeight;
}

function ask() {
  const question = at("question").value.trim();
  if (state !== "ready" || !question) return;
  write("");
  task = answering(question);
}

async function answering(question) {
  fail("");
  enter("answering");
  const asked = turn("user", question);
  const answer = turn("assistant", "");
  answer.item.ariaBusy = "true"; // to be read out when it is whole
  at("main").scrollTop = at("main").scrollHeight;
  at("question").focus();
  const limit = Number(at("length").value);
  const params = {
    messages: [...messages, { role: "user", content: question }],
    temperature: Number(at("temperature").value),
    ...(limit && { max_tokens: limit }),
  };
  call = engine.call("chat", params, ({ text }) => following(() => answer.node.appendData(text)));
  let result = null;
  let failure = null;
  try {
    result = await call.result;
    if (result.tokens.length) showFacts(result);
  } catch (error) {
    failure = error;
  }
  call = null;
  answer.item.ariaBusy = null;
  following(() => {
    const stopped = failure?.type === "Cancelled";
    const why = failure && !stopped ? "Broken off." : whyEnded(result ?? { stopped });
    if (why) remark(answer.item, why);
    if (answer.node.length) {
      messages = [...params.messages, { role: "assistant", content: answer.node.data }];
    } else {
      // Nothing came: the question goes back to where it can be changed.
      asked.item.remove();
      answer.item.remove();
      if (!at("question").value) write(question);
    }
    if (failure?.type === "PythonEnded") return lose(failure);
    enter("ready");
    if (failure && !stopped) fail(failure.message, wayOut(failure));
  });
}

// Why an answer ended before its own end; "" if it did not.
function whyEnded({ stopped, finish_reason: reason, stopped_by: by }) {
  if (stopped) return "Stopped.";
  if (reason !== "length") return "";
  if (by === "max_tokens") return "Ended at the length that is set below.";
  return `Ended here: the model's ${loaded.context} tokens of context are full. Begin a new chat.`;
}

// A button that helps after an error, if one does.
function wayOut({ type }) {
  if (!["PythonEnded", "DeviceLostError", "ContextError"].includes(type)) return null;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = type === "ContextError" ? "New chat" : "Load it again";
  button.onclick = type === "ContextError" ? newChat : () => load(source);
  return button;
}

function newChat() {
  instead(() => {
    if (!loaded) return; // another model was asked for first, and there is none now
    fail("");
    forget();
    showFacts(loaded);
    announce("A new chat.");
    at("question").focus();
  });
}

function showFacts({ timings, memory, adapter }) {
  const parts = [`GPU memory ${size(memory.total)}`];
  if (timings?.first_token_ms) parts.unshift(`first word after ${(timings.first_token_ms / 1e3).toFixed(1)} s`);
  if (timings?.generated_per_second) parts.unshift(`${timings.generated_per_second.toFixed(1)} tokens/s`);
  if (!timings) parts.unshift(`room for ${loaded.context} tokens`);
  at("facts").textContent = parts.join(" · ");
  at("facts").title = adapter;
}

// --- What a person does ---

function write(text) {
  at("question").value = text;
  grow();
}

function grow() {
  const box = at("question");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + box.offsetHeight - box.clientHeight}px`;
  allowSend();
}

at("question").oninput = grow;
at("question").onkeydown = (event) => {
  // While an input method composes, Enter belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
};
at("ask").onsubmit = (event) => {
  event.preventDefault();
  ask();
};
at("stop").onclick = at("cancel").onclick = stop;
document.onkeydown = (event) => {
  if (event.key === "Escape" && state === "answering") stop();
};
at("new-chat").onclick = newChat;
at("other").onclick = () => at("file").click();
// Several are the parts of one model.
function loadFiles(list) {
  const files = [...list];
  if (files.length) load({ name: files[0].name, files });
}
at("file").onchange = () => {
  loadFiles(at("file").files);
  at("file").value = ""; // so that the same file can be chosen again
};

const carriesFiles = (event) => event.dataTransfer.types.includes("Files");
document.ondragover = (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
};
document.ondragleave = (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
};
document.ondrop = (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  document.body.classList.remove("dragging");
  loadFiles(event.dataTransfer.files);
};

// --- At the start ---

async function offerDefault() {
  const { model } = await (await fetch("config.json")).json();
  if (!model) return;
  at("default").hidden = at("default-name").hidden = false;
  at("default-name").textContent = model.name;
  at("default").onclick = () => load({ name: model.name, url: new URL(model.url, location.href).href });
}

// Where no model can run, Python knows why, and what can be done about it in this browser.
async function checkWebGPU() {
  try {
    await engine.call("webgpu", {}).result;
  } catch (error) {
    if (state === "empty") fail(error.message); // what is being loaded will say so itself
  }
}

enter("empty");
offerDefault();
checkWebGPU();
