// Between the command line (a websocket) and the worker: messages pass as they are.

const socket = new WebSocket(new URL("bridge", location.href.replace("http", "ws")));
const opened = new Promise((resolve) => socket.addEventListener("open", resolve));
const send = async (message) => {
  await opened;
  socket.send(JSON.stringify(message));
};

const worker = new Worker("worker.js", { type: "module" });
worker.onmessage = ({ data }) => send(data);
const fail = (message) => send({ event: { event: "error", type: "PageError", message } });
worker.onerror = (error) => fail(`The page's worker failed: ${error.message}`);
socket.onmessage = ({ data }) => {
  try {
    worker.postMessage(JSON.parse(data));
  } catch (error) {
    fail(`The page cannot read a message: ${error.message}`);
  }
};
