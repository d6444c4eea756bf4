"""Python in a tab of Firefox or Chromium, on its main thread or in a worker, with `run` as in pytest-pyodide's page."""

from __future__ import annotations

import base64

from browser_page import CALL, Page

from llamaweb.host.browser import Tab
from llamaweb.host.page_wheel import page_wheel

# Pyodide takes JSPI where it finds it.
START = """async (url, wheel, call, jspi) => {
  if (!jspi) delete WebAssembly.Suspending;
  const { loadPyodide } = await import(url + "/pyodide.mjs");
  const pyodide = await loadPyodide({ indexURL: url + "/", packages: ["numpy", "gguf", "jinja2"] });
  pyodide.unpackArchive(Uint8Array.from(atob(wheel), (c) => c.charCodeAt(0)), "wheel");
  pyodide.runPython(call);
  return pyodide.globals.get("__call");
}"""
HERE = f"async (...arguments) => {{ globalThis.ask = await ({START})(...arguments); }}"
WORKER = f"""
const started = new Promise((resolve) => {{ globalThis.begin = (parts) => resolve(({START})(...parts)); }});
onmessage = async ({{ data }}) => {{
  try {{
    if (data.start) begin(data.start);
    const call = await started;
    postMessage({{ value: data.start ? null : await call(...data.ask) }});
  }} catch (error) {{
    postMessage({{ error: String(error) }});
  }}
}};
"""
THERE = """async (script, ...start) => {
  const worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })), { type: "module" });
  const send = (message) => new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data.value));
    worker.onerror = (error) => reject(new Error(error.message));
    worker.postMessage(message);
  });
  globalThis.ask = (...ask) => send({ ask });
  await send({ start });
}"""


class TabPage(Page):
    """In a tab of its own; `reload` is a person's, after which Python is a new one."""

    def __init__(self, tab: Tab, url: str, where: str) -> None:
        """where: "worker" or "main thread"; "without JSPI" behind it takes that away before Pyodide starts."""
        self.url = url
        self.where = where
        self._tab = tab
        self.reload()

    def reload(self) -> None:
        self._tab.get(f"{self.url}/none.html")  # what is not found has the server's origin, too
        start = [self.url, base64.b64encode(page_wheel().data).decode(), CALL, "without JSPI" not in self.where]
        if "worker" in self.where:
            self._tab.run(THERE, WORKER, *start)
        else:
            self._tab.run(HERE, *start)

    def _ask(self, source: str, name: str, payload: str) -> str:
        return self._tab.run("(...ask) => globalThis.ask(...ask)", source, name, payload)

    def close(self) -> None:
        self._tab.close()
