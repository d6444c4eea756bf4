"""Commands of the page, without one: what they say beside their result."""

from __future__ import annotations

import asyncio
import importlib
import warnings
from typing import Any

import pytest

from llamaweb.host.output import Output
from tests.no_page import no_page

REFUSED = "The kernel mul_mat (k=64) does not compile here: no; its plain variant is used instead."


def events_of(command: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    """A command's events where a model loads with a warning of ours, and one of somebody else's."""
    events: list[dict[str, Any]] = []
    stored: dict[str, Any] = {}

    async def save(name: str, value: Any) -> None:
        assert name not in stored, "each is written once"
        stored[name] = value

    async def kept(name: str) -> Any:
        return stored.get(name)

    class Model:
        trials: tuple = ()
        file = type("File", (), {"metadata": {}})
        plan = type("Plan", (), {"n_ctx": 64})
        memory = adapter = dispatches_per_token = None

        async def __aenter__(self) -> Model:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

    with no_page():
        page = importlib.import_module("llamaweb.page.commands")
        errors = importlib.import_module("llamaweb.errors")

        async def load(*_: Any, **options: Any) -> Model:
            for name in stored:
                stored[name] = {"was": stored[name]}  # as a load that tunes
            warnings.warn(REFUSED, errors.KernelWarning, stacklevel=1)
            warnings.warn("something of a library's own", RuntimeWarning, stacklevel=1)
            return Model()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(page.Llama, "load", load)
            patch.setattr(page, "save_json", save)
            patch.setattr(page, "load_json", kept)
            asyncio.run(page.handle(command, params, events.append))
    return events


def test_a_kernel_that_gave_way_is_told_beside_the_commands_result(capsys: pytest.CaptureFixture[str]) -> None:
    warning, result = events_of("tune", {"model": "a.gguf"})
    assert warning == {"event": "warning", "message": REFUSED} and result["event"] == "result"
    Output().event(warning)
    told = capsys.readouterr()
    assert told.err == REFUSED + "\n" and told.out == ""


def test_the_chat_page_is_told_with_the_loaded_model() -> None:
    (result,) = events_of("load", {"model": "a.gguf"})
    assert result["warnings"] == [REFUSED]


FILES = ("llamaweb-tuning.json", "llamaweb-checks.json")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({name: {"a": 1} for name in FILES}, {name: {"was": {"a": 1}} for name in FILES}),
        ({FILES[1]: {"a": 1}, "another": 2}, {FILES[1]: {"was": {"a": 1}}}),
        ([3], None),
        (None, None),
    ],
)
def test_what_tuning_found_elsewhere_is_there_when_the_model_loads_and_is_told_in_the_end(
    before: Any, after: Any
) -> None:
    _, told, result = events_of("tune", {"model": "a.gguf", "tuning": before})
    assert told == {"event": "tuning", "kept": after}
    assert result["event"] == "result"


SIZES = {"model": "a.gguf", "prompt_tokens": 8, "gen_tokens": 24, "depth": 2030, "reps": 1}


@pytest.mark.parametrize(
    ("command", "params", "n_ctx"),
    [
        ("bench", SIZES, 2030 + 8 + 24),
        ("bench", {**SIZES, "depth": 6}, None),
        ("bench", {**SIZES, "context": 3000}, 3000),
        ("bench_fusions", SIZES, 2030 + 2 + 24),
    ],
)
def test_a_bench_of_more_tokens_than_the_usual_context_asks_for_so_many(
    command: str, params: dict[str, Any], n_ctx: int | None
) -> None:
    asked: list[int | None] = []

    async def load(*_: Any, n_ctx: int | None, **options: Any) -> None:
        asked.append(n_ctx)
        raise asyncio.CancelledError

    with no_page(), pytest.MonkeyPatch.context() as patch:
        page = importlib.import_module("llamaweb.page.commands")
        patch.setattr(page.Llama, "load", load)
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(page.handle(command, params, print))
    assert asked == [n_ctx]
