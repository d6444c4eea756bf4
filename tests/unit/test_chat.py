"""Chat templates: real ones give their prompts, bad ones give a sentence."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from llamaweb.chat import check_chat, render_chat
from llamaweb.chat import template as template_module
from llamaweb.errors import LlamaWebError, ModelFileError, UnsupportedError
from llamaweb.strings import Strings
from llamaweb.tokenizer import load_tokenizer
from tests import vocabularies_spm
from tests.vocabularies import vocabulary

GOLDEN = Path(__file__).parents[1] / "golden"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi ü <b>&"},
    {"role": "assistant", "content": " Hello "},
    {"role": "user", "content": "Bye"},
]
CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi ü <b>&<|im_end|>\n"
    "<|im_start|>assistant\n Hello <|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
)
OPENING = "<|im_start|>assistant\n"


def render(template: str, messages: Any = ({"role": "user", "content": "Hi"},), **options: Any) -> str:
    return render_chat({"tokenizer.chat_template": template}, messages, **options)


@pytest.mark.parametrize("name", ["smollm2", "qwen2"])
def test_a_chatml_models_own_template_gives_chatml(name: str) -> None:
    assert render_chat(vocabulary(name), CHAT) == CHATML + OPENING
    assert render_chat(vocabulary(name), CHAT, add_generation_prompt=False) == CHATML


def test_smollm2_is_given_its_own_system_prompt_if_there_is_none() -> None:
    prompt = render_chat(vocabulary("smollm2"), [{"role": "user", "content": "Hi"}])
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert prompt == f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n{OPENING}"


def test_llama3s_template_writes_the_bos_token_and_trims() -> None:
    prompt = render_chat(vocabulary("llama3"), CHAT[1:3])
    user = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi ü <b>&<|eot_id|>"
    answer = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert prompt == f"{user}{answer}Hello<|eot_id|>{answer}"
    assert render_chat(vocabulary("llama3"), CHAT[1:2], bos_token="<s>").startswith("<s><|start_header_id|>")


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_prompts_and_their_ids_are_those_of_the_golden_files(name: str) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    metadata = _gemma3() if name == "gemma3" else vocabulary(name)
    tok = load_tokenizer(metadata)
    for case in [*golden["chats"], *golden["greedy"]]:
        if case["messages"]:
            prompt = render_chat(metadata, case["messages"])
            assert prompt == case["prompt"]
            written = prompt.startswith("<bos>")
            assert tok.encode(prompt, add_special=not written, parse_special=True) == case["ids"]
        else:
            assert tok.encode(case["prompt"]) == case["ids"]


def test_gemma3s_template_knows_what_it_cannot_say() -> None:
    with pytest.raises(LlamaWebError, match="roles must alternate"):
        render_chat(_gemma3(), CHAT[2:])


def _gemma3() -> dict[str, Any]:
    """Gemma 3's vocabulary, that of a base model, with the chat template of its instructed siblings."""
    return vocabularies_spm.vocabulary("gemma3") | {"tokenizer.chat_template": (GOLDEN / "gemma3.jinja").read_text()}


def test_a_prompts_markers_become_single_tokens() -> None:
    tok = load_tokenizer(vocabulary("smollm2"))
    ids = tok.encode(render_chat(vocabulary("smollm2"), CHAT), parse_special=True)
    assert ids.count(1) == 5 and ids.count(2) == 4  # <|im_start|>, <|im_end|>


def test_qwens_template_shows_tools_as_json() -> None:
    tool = {"type": "function", "function": {"name": "größe", "parameters": {"a<b": True}}}
    prompt = render_chat(vocabulary("qwen2"), CHAT[:2], tools=[tool])
    assert '\n{"type": "function", "function": {"name": "größe", "parameters": {"a<b": true}}}\n</tools>' in prompt
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    result = {"role": "tool", "content": "2"}
    prompt = render_chat(vocabulary("qwen2"), [CHAT[1], call, result], False)
    assert prompt.endswith(
        'assistant\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n"
    )


def test_without_a_template_chatml_is_for_vocabularies_that_have_its_tokens() -> None:
    qwen = {key: value for key, value in vocabulary("qwen2").items() if key != "tokenizer.chat_template"}
    assert render_chat(qwen, CHAT) == CHATML + OPENING
    with pytest.raises(UnsupportedError, match="no chat template"):
        render_chat(vocabulary("gpt2"), CHAT)
    with pytest.raises(UnsupportedError, match="no chat template"):
        render_chat(vocabularies_spm.vocabulary("gemma3"), CHAT)
    with pytest.raises(ModelFileError, match="not a text"):
        render_chat({"tokenizer.chat_template": 7}, CHAT)


def test_block_lines_leave_no_trace_and_loops_know_their_place() -> None:
    template = (
        "{% for m in messages %}\n  {% if loop.last %}\n{{ loop.index }}/{{ loop.length }} {{ m.content ~ '!' }}\n"
        "  {% else %}\n{% continue %}\n  {% endif %}\n{% endfor %}\n"
    )
    assert render(template, CHAT) == "4/4 Bye!\n"


def test_loops_over_pairs_ranges_recursion_and_macros_work() -> None:
    assert (
        render("{% for k, v in messages[0].items() if k != 'x' %}{{ k }}={{ v }};{% endfor %}")
        == "role=user;content=Hi;"
    )
    assert render("{% for i in range(3) %}{{ i }}{% else %}none{% endfor %}") == "012"
    assert render("{% for i in [] %}{{ i }}{% else %}none{% endfor %}") == "none"
    nested = "{% for i in [[1, [2]], [3, []]] recursive %}{{ i[0] if i is iterable else i }}"
    assert render(nested + "{% if i is iterable %}({{ loop(i[1]) }}){% endif %}{% endfor %}") == "1(2)3()"
    macro = "{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}"
    assert render(macro) == "3210"
    assert (
        render("{% set ns = namespace(n=0) %}{% for m in [1, 2] %}{% set ns.n = ns.n + m %}{% endfor %}{{ ns.n }}")
        == "3"
    )


def test_helpers_of_the_field_are_there() -> None:
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)
    assert render("{{ {'b': 1, 'a': '<ü>'} | tojson(sort_keys=true) }}") == '{"a": "<ü>", "b": 1}'
    assert render("{{ [1] | tojson(indent=2) }}") == "[\n  1\n]"
    assert render("{% generation %}{{ messages[0].content }}{% endgeneration %}") == "Hi"


FAILING = {
    "{{ raise_exception('Roles must alternate.\n\nReally') }}": "Roles must alternate. Really;",
    "{{ messages[0]['nothing'] + 'x' }}": "has no attribute 'nothing'",
    "{{ messages[0].nothing.more }}": "'dict object' has no attribute 'nothing'",
    "{{ nothing.more }}": "'nothing' is undefined",
    "{{ range.nothing.more }}": "'function' has no attribute 'nothing'",
    "{{ messages[0].content + 1 }}": "messages: can only concatenate str",
    "{% if %}": "(line 1)",
    "{{ 1 // 0 }}": "by zero",
    "{{ 1e999999999 | int }}": "it has a number that is too large (line 1)",
    "{{ range(10 ** 9) }}": "it asks for a range of more than 100000 numbers",
    "{{ range(10 ** 30) }}": "it asks for a range of more than 100000 numbers",
    "{{ range(-100001, 0) }}": "it asks for a range of more than 100000 numbers",
    "{{ '{a}'.format() }}": "messages: there is no 'a';",
    "{{ 'x' | unknown }}": "unknown",
    "{{ messages.append(1) }}": "unsafe",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{{ range.__globals__['os'] }}": "unsafe",
    "{{ '{0.__class__.__mro__}'.format(1) }}": "unsafe",
    "{{ ['{0.__class__.__mro__}'] | map(attribute='format') | first | string }}": "uses a Format",
    "{{ (5).to_bytes(1, 'big') }}": "not safely callable",
}


@pytest.mark.parametrize("template", FAILING)
def test_a_failing_template_gives_one_sentence(template: str) -> None:
    with pytest.raises(LlamaWebError) as caught:
        render(template)
    message = str(caught.value)
    assert FAILING[template] in message and message.startswith("The model's chat template cannot be applied")
    assert "\n" not in message and len(message) < 500 and message.endswith(".")


def test_a_template_works_again_after_it_failed() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('bad') }}{% endif %}{{ m.role }}{% endfor %}"
    )
    with pytest.raises(LlamaWebError):
        render(template, [{"role": "bad"}])
    for _ in range(20):
        assert render(template, [{"role": "user"}]) == "user"


@pytest.mark.parametrize("messages", ["Hi", {"role": "user"}, ["Hi"], [{"content": "Hi"}], [{"role": 1}], None])
def test_messages_of_the_wrong_shape_are_refused(messages: Any) -> None:
    with pytest.raises(LlamaWebError, match="role"):
        render("x", messages)


PLAIN = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
DOCUMENTS = [{"title": "A", "text": "B"}]
NAMED = {
    "": PLAIN,
    ".tool_use": "TOOLS={{ tools | map(attribute='function.name') | join }};" + PLAIN,
    ".rag": "DOCUMENTS={{ documents | map(attribute='title') | join }};" + PLAIN,
}


@pytest.mark.parametrize(
    ("there", "options", "right"),
    [
        (("", ".tool_use", ".rag"), {}, "user:Hi;"),
        (("", ".tool_use", ".rag"), {"tools": TOOLS}, "TOOLS=get_weather;user:Hi;"),
        (("", ".tool_use", ".rag"), {"tools": []}, "user:Hi;"),
        (("", ".tool_use", ".rag"), {"documents": DOCUMENTS}, "DOCUMENTS=A;user:Hi;"),
        (("", ".tool_use", ".rag"), {"tools": TOOLS, "documents": DOCUMENTS}, "TOOLS=get_weather;user:Hi;"),
        (("", ".rag"), {"tools": TOOLS}, "user:Hi;"),
        ((".tool_use",), {"tools": TOOLS}, "TOOLS=get_weather;user:Hi;"),
        ((".tool_use",), {}, "TOOLS=;user:Hi;"),
        ((".rag", ".tool_use"), {}, "TOOLS=;user:Hi;"),
        ((".rag",), {"tools": TOOLS, "documents": DOCUMENTS}, "DOCUMENTS=A;user:Hi;"),
    ],
)
def test_named_templates_are_taken_for_what_they_are_named(there: Any, options: Any, right: str) -> None:
    metadata = {f"tokenizer.chat_template{name}": NAMED[name] for name in there}
    found = render_chat(metadata, [{"role": "user", "content": "Hi"}], **options)
    assert found == right
    check_chat(metadata)


def test_the_names_of_templates_are_no_templates() -> None:
    """GGUFWriter writes them beside, as `tokenizer.chat_templates`."""
    metadata = {"tokenizer.chat_templates": Strings.of([b"tool_use"]), "tokenizer.chat_template.tool_use": PLAIN}
    assert render_chat(metadata, [{"role": "user", "content": "Hi"}]) == "user:Hi;"
    with pytest.raises(ModelFileError, match=r"tokenizer\.chat_template\.rag' is not a text"):
        render_chat({**metadata, "tokenizer.chat_template.rag": 3}, [{"role": "user", "content": "Hi"}])


def test_a_template_may_be_chatml_by_its_name() -> None:
    assert render("chatml", CHAT) == CHATML + OPENING


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("add_eos", [False, True])
def test_a_prompt_that_goes_on_never_ends_in_an_end_token(add_eos: bool, kind: str) -> None:
    """llama.cpp#8990: a fine-tune whose file says add_eos_token answered its own end."""
    metadata = {**(_gemma3() if kind == "llama" else vocabulary("smollm2")), "tokenizer.ggml.add_eos_token": add_eos}
    tok = load_tokenizer(metadata)
    prompt = render_chat(metadata, CHAT[1:2], bos_token=tok.written(tok.bos))
    for text, special in ((prompt, True), ("The sky is", False)):
        ids = tok.encode_prompt(text, parse_special=special)
        assert ids[-1] not in tok.eog
        assert (tok.encode(text, parse_special=special)[-1] == tok.eos) is add_eos


def test_the_begin_token_is_there_once_whoever_writes_it() -> None:
    tok = load_tokenizer(_gemma3())
    assert tok.add_bos and tok.written(tok.bos) == "<bos>" and tok.written(None) == ""
    assert tok.encode_prompt("<bos>Hi", parse_special=True) == tok.encode_prompt("Hi") == tok.encode("Hi")
    assert tok.encode_prompt("<bos>Hi")[:2] != [tok.bos, tok.bos]
    assert tok.encode_prompt("") == [tok.bos]


def sentence(metadata: dict[str, Any], messages: Any = CHAT, **options: Any) -> str:
    with pytest.raises(LlamaWebError) as caught:
        render_chat(metadata, messages, **options)
    return str(caught.value)


def test_what_is_no_chat_model_or_no_message_is_told_in_whole_sentences() -> None:
    nothing = "The model has no chat template (tokenizer.chat_template); prompt it without chat."
    tokens = [b"<|im_start|>", b"<|im_end|>"]
    for metadata in (
        {},
        {"tokenizer.chat_template": "  "},
        {"tokenizer.chat_templatex": "x"},
        {"tokenizer.ggml.tokens": tokens[:1]},
        {"tokenizer.ggml.tokens": tokens[1:]},
        {"tokenizer.ggml.tokens": "<|im_start|><|im_end|>"},
    ):
        assert sentence(metadata) == nothing
        with pytest.raises(UnsupportedError):
            check_chat(metadata)
    assert render_chat({"tokenizer.ggml.tokens": tokens}, CHAT) == CHATML + OPENING
    assert render_chat({"tokenizer.chat_template": " ", "tokenizer.ggml.tokens": Strings.of(tokens)}, CHAT)
    bad = "The model file's 'tokenizer.chat_template.a' is not a text; fetch or convert it again."
    assert sentence({"tokenizer.chat_template": "x", "tokenizer.chat_template.a": b"x"}) == bad
    model = {"tokenizer.chat_template": " chatml "}
    assert render_chat(model, CHAT) == CHATML + OPENING
    for messages, kind in (("Hi", "str"), (b"Hi", "bytes"), ({"role": "user"}, "dict"), (None, "NoneType")):
        told = f"Messages are a list of dicts with role and content, not {kind}."
        assert sentence(model, messages) == told
    for message in ("Hi", {"content": "Hi"}, {"role": 1}):
        told = "Message 1 has no role; write it as {'role': 'user', 'content': '…'}."
        assert sentence(model, [CHAT[0], message]) == told
    assert render_chat({"tokenizer.chat_template": "{{ messages | length }}"}, tuple(CHAT)) == "4"


def test_a_templates_reason_is_cut_where_it_is_long_and_ends_once() -> None:
    before = "The model's chat template cannot be applied to these messages: "
    after = "; change the messages or prompt the model without chat."

    def told(reason: str) -> str:
        words = sentence(
            {"tokenizer.chat_template": "{{ raise_exception(messages[0].reason) }}"}, [USER | {"reason": reason}]
        )
        assert words.startswith(before) and words.endswith(after)
        return words.removeprefix(before).removesuffix(after)

    assert told("no.") == told(" no\n ") == "no"
    assert told("a" * 300) == "a" * 300
    assert told("a" * 301) == "a" * 300 + "…"
    assert told("a " + " " * 1996 + "bcd") == "a bc"
    assert told("") == "TemplateError"
    assert sentence({"tokenizer.chat_template": "\n{{ 1"}) == (
        f"{before}unexpected end of template, expected 'end of print statement'. (line 2){after}"
    )
    assert sentence({"tokenizer.chat_template": "{{ [] + 1 }}"}) == (
        f'{before}can only concatenate list (not "int") to list{after}'
    )


USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("id", "tokens", "written"),
    [
        (0, [b"<s>", b"b"], "<s>"),
        (1, [b"<s>", b"\xff\xc3\xbc"], "\ufffd\u00fc"),
        (1, Strings.of([b"<s>", b"b"]), "b"),
        (2, [b"<s>", b"b"], ""),
        (-1, [b"<s>", b"b"], ""),
        ("0", [b"<s>", b"b"], ""),
        (None, [b"<s>", b"b"], ""),
        (0, None, ""),
        (0, "<s>", ""),
    ],
)
def test_a_token_is_written_as_the_vocabulary_has_it_or_not_at_all(id: Any, tokens: Any, written: str) -> None:
    for role in ("bos", "eos"):
        metadata = {
            "tokenizer.chat_template": f"[{{{{ {role}_token }}}}]",
            f"tokenizer.ggml.{role}_token_id": id,
            "tokenizer.ggml.tokens": tokens,
        }
        assert render_chat(metadata, [USER]) == f"[{written}]"
        assert render_chat(metadata, [USER], **{f"{role}_token": "é"}) == "[é]"


def test_a_template_is_given_what_a_caller_gives_and_none_otherwise() -> None:
    template = "{{ tools is none }}{{ documents is none }}{{ tools }}{{ documents }}{{ add_generation_prompt }}"
    assert render(template) == "TrueTrueNoneNoneTrue"
    assert render(template, [USER], tools=[], documents=[{"a": 1}]) == "FalseFalse[][{'a': 1}]True"
    assert render_chat({"tokenizer.chat_template": template}, [USER], False, tools=[{"a": 1}]) == (
        "FalseTrue[{'a': 1}]NoneFalse"
    )


def test_templates_are_kept_compiled_and_their_lines_are_without_the_blanks_before_tags() -> None:
    assert template_module._compile.cache_info().maxsize == 8
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"
    assert render("<{{ '<' }}") == "<<"
