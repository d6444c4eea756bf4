"""The chat page says what goes on in the background, with a worker in the place of Python."""

from __future__ import annotations

from selenium.webdriver import Chrome

from tests.pages.chat_page import ChatPage

# Loads at once whatever is asked for; `window.tune(done, total)` is the progress of its tuning then.
WORKER = """
    window.Worker = class {
      constructor() { setTimeout(() => this.onmessage({ data: { event: { event: "ready" } } })); }
      postMessage({ id, command }) {
        if (command !== "load") return;
        const say = (event) => this.onmessage({ data: { id, event } });
        const memory = { total: 1e8, weights: 9e7, kv: 1e7, arena: 0, io: 0 };
        setTimeout(() => say({ event: "result", name: "m", context: 64, warnings: [], memory, adapter: "a GPU" }));
        window.tune = (done, total) => say({ event: "progress", phase: "tuning", done, total });
      }
    };
"""


def test_tuning_is_shown_while_it_lasts_and_nothing_waits_for_it(browser: Chrome, site: str) -> None:
    page = ChatPage(browser, "about:blank")
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WORKER})
    try:
        browser.get(site)
        page.drop("model.gguf", b"GGUF")
        page.wait(lambda: page.state == "ready", 30)
        assert page.text("tuning") == ""
        page.script("tune(3, 20)")
        shown = page.text("tuning")
        assert "fastest kernels" in shown and "3 of 20" in shown
        page.element("question").send_keys("hello")
        assert page.state == "ready" and page.element("send").is_enabled()
        page.script("tune(20, 20)")
        assert page.text("tuning") == ""
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
        page.close()
