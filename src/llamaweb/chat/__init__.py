"""Messages to a prompt, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamaweb.errors import ModelFileError, UnsupportedError, short
from llamaweb.strings import Strings

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


_KEY = "tokenizer.chat_template"


def render_chat(
    metadata: Mapping[str, Any],
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = True,
    *,
    bos_token: str | None = None,
    eos_token: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The prompt for a chat; Tokenizer.encode_prompt with `parse_special` makes its ids.

    messages: dicts with `role` and `content`, as in OpenAI's chat interface; the template sees what else they hold.
    bos_token, eos_token: how these tokens are written; by default as the metadata has them. tools: functions in
    OpenAI's form, for which the template named tool_use is taken if there is one; documents: dicts that an answer is
    drawn from, for which it is that named rag.
    A model file without a template is spoken to in ChatML if its vocabulary has ChatML's tokens; otherwise it is not
    a chat model, and that is an UnsupportedError. A template that fails is a LlamaWebError with its reason.
    """
    from llamaweb.chat.template import check_messages, render_template  # imports jinja2, which is slow to load

    check_messages(messages)
    variables = {
        "messages": [dict(message) for message in messages],
        "add_generation_prompt": add_generation_prompt,
        "bos_token": _token(metadata, "bos") if bos_token is None else bos_token,
        "eos_token": _token(metadata, "eos") if eos_token is None else eos_token,
        "tools": None if tools is None else [dict(tool) for tool in tools],
        "documents": None if documents is None else [dict(document) for document in documents],
    }
    wanted = [name for name, given in (("tool_use", tools), ("rag", documents)) if given]
    return render_template(_template(metadata, wanted), variables)


def check_chat(metadata: Mapping[str, Any]) -> None:
    """Raises what `render_chat` would for a model that is not a chat model; its header tells, before its weights."""
    _template(metadata)


def _template(metadata: Mapping[str, Any], wanted: Sequence[str] = ()) -> str:
    """The first template of a `wanted` name, else the default one, else the first that there is, as in llama.cpp."""
    named = _templates(metadata)
    for name in (*wanted, "default", "tool_use", *named):
        if name in named:
            return CHATML if named[name].strip() == "chatml" else named[name]
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list | Strings) and b"<|im_start|>" in tokens and b"<|im_end|>" in tokens:
        return CHATML
    raise UnsupportedError("The model has no chat template (tokenizer.chat_template); prompt it without chat.")


def _templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The file's chat templates by their names; that without one is "default"."""
    found: dict[str, str] = {}
    for key, value in metadata.items():
        if key != _KEY and not key.startswith(_KEY + "."):
            continue
        if not isinstance(value, str):
            raise ModelFileError(f"The model file's {short(key)} is not a text; fetch or convert it again.")
        if value.strip():
            found[key.removeprefix(_KEY).removeprefix(".") or "default"] = value
    return found


def _token(metadata: Mapping[str, Any], role: str) -> str:
    id, tokens = metadata.get(f"tokenizer.ggml.{role}_token_id"), metadata.get("tokenizer.ggml.tokens")
    if not isinstance(id, int) or not isinstance(tokens, list | Strings) or not 0 <= id < len(tokens):
        return ""
    return tokens[id].decode("utf-8", "replace")
