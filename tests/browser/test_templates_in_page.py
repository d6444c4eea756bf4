"""Chat templates under the page's own Python, whose stack is small: what wants to end it is refused, in few steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_page import Page

from tests import bombs

SOURCE = Path(bombs.__file__).read_text()
NAMES = list(bombs.everything(1))


@pytest.mark.parametrize("first", range(0, len(NAMES), 40))
def test_no_template_and_no_message_ends_the_pages_python_or_goes_on_without_end(page: Page, first: int) -> None:
    def run(source, names):
        from types import SimpleNamespace

        from llamaweb.chat import budget, render_chat
        from llamaweb.errors import LlamaWebError

        scope = {"__name__": "bombs"}
        exec(compile(source, "bombs.py", "exec"), scope)
        budget.MAX_STEPS, budget.time = 100_000, SimpleNamespace(monotonic=lambda: 0.0)  # and no clock
        answers = {}
        for name, (template, given) in scope["everything"](300).items():  # lists of 50,000 levels no page could hold
            if name in names:
                try:
                    render_chat({"tokenizer.chat_template": template}, **given)
                    words = ""
                except LlamaWebError as error:
                    words = str(error)
                answers[name] = words
        return answers

    names = NAMES[first : first + 40]
    answers = page.run(run, source=SOURCE, names=names)
    assert list(answers) == names
    for name, words in answers.items():
        if name not in bombs.HEAVY:
            assert words.startswith("The model's chat template cannot be applied to these messages: "), name
            assert "\n" not in words and "MemoryError" not in words and len(words) < 500, name
