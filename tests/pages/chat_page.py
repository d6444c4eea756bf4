"""The chat page in a real browser, used as a person does: keys, clicks, dropped files, and what can be read."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

SECONDS = 150
# Notes every change of an element's text, as a person would see it.
WATCH = """
    const [element, selector] = arguments;
    const seen = (window.seen = []);
    const note = () => {
      const text = element.querySelector(selector)?.textContent;
      if (text && text !== seen.at(-1)) seen.push(text);
    };
    window.watcher?.disconnect();
    window.watcher = new MutationObserver(note);
    window.watcher.observe(element, { subtree: true, childList: true, characterData: true, attributes: true });
"""
DROP = """
    const [name, base64] = arguments;
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name));
    for (const type of ["dragenter", "dragover", "drop"])
      document.body.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
"""


def until(what: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Waits until `what` is true, and returns it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"nothing came in {seconds} s"
        time.sleep(0.05)
    return found


class ChatPage:
    """One tab with the chat page; every method works in that tab."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        driver.switch_to.new_window("tab")
        self._tab = driver.current_window_handle
        driver.get(url)

    def element(self, id: str) -> WebElement:
        self.driver.switch_to.window(self._tab)
        return self.driver.find_element(By.ID, id)

    def text(self, id: str) -> str:
        """What a person reads there; "" if it is hidden."""
        return self.element(id).text

    def script(self, code: str, *arguments: object) -> Any:
        self.driver.switch_to.window(self._tab)
        return self.driver.execute_script(code, *arguments)

    @property
    def state(self) -> str:
        return self.script("return document.body.dataset.state")

    def wait(self, what: Callable[[], object], seconds: float = SECONDS) -> Any:
        """Waits until `what` is true, and returns it; an error on the page ends the waiting."""
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < deadline, f"nothing came in {seconds} s; the page: {self.text('main')!r}"
            time.sleep(0.05)
        return found

    def choose(self, *paths: Path) -> None:
        self.element("file").send_keys("\n".join(map(str, paths)))

    def drop(self, name: str, data: bytes) -> None:
        self.script(DROP, name, base64.b64encode(data).decode())

    def loaded(self) -> None:
        """Waits until the model is ready."""
        self.wait(lambda: self.state == "ready" or self.text("error"))
        assert self.text("error") == ""

    def way_out(self, name: str) -> None:
        """Presses the button that an error offers."""
        button = self.element("error").find_element(By.TAG_NAME, "button")
        assert button.text == name
        button.click()

    def watch(self, id: str, selector: str) -> Callable[[], list[str]]:
        """From now on, collects the texts that `selector` within `id` shows; call the result to get them."""
        self.script(WATCH, self.element(id), selector)
        return lambda: self.script("return window.seen")

    def select(self, id: str, choice: str) -> None:
        self.element(id).find_element(By.XPATH, f"option[normalize-space()='{choice}']").click()

    def send(self, question: str) -> None:
        """Types a question and presses Enter."""
        self.element("question").send_keys(question, Keys.ENTER)

    def ask(self, question: str) -> str:
        """The answer to a question, when it is whole."""
        self.send(question)
        self.wait(lambda: self.state == "ready")
        assert self.text("error") == ""
        return self.answers[-1]

    @property
    def answers(self) -> list[str]:
        return self._words("assistant")

    @property
    def questions(self) -> list[str]:
        return self._words("user")

    def _words(self, role: str) -> list[str]:
        code = "return Array.from(document.querySelectorAll(arguments[0]), (item) => item.innerText)"
        return self.script(code, f"#log .{role} .words")

    def close(self) -> None:
        self.driver.switch_to.window(self._tab)
        self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])
