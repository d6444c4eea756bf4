"""The blocking Llama leaves nothing to be awaited."""

from __future__ import annotations

import importlib
import inspect

from tests.no_page import no_page


def test_everything_that_is_awaited_has_a_blocking_method() -> None:
    with no_page():
        blocking, awaited = (importlib.import_module(f"llamaweb.{name}").Llama for name in ("sync", "llama"))
    public = {name: getattr(awaited, name) for name in vars(awaited) if not name.startswith("_")}
    names = {n for n, f in public.items() if inspect.iscoroutinefunction(f)} | {"stream", "chat_stream"}
    assert {"complete", "chat", "perplexity", "profile", "close"} <= names
    assert names <= set(vars(blocking))
    assert not any(inspect.iscoroutinefunction(getattr(blocking, name)) for name in names)
