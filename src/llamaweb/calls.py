"""The calls and questions of llama-cpp-python, and their dicts, over what a Llama does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from llamaweb import __version__, arguments
from llamaweb.answer import Answer, Pieces
from llamaweb.completions import Chat, Head, Reply, Text, Wanted, chunks, known_options, whole
from llamaweb.errors import LlamaWebError
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.planner import ModelPlan
from llamaweb.progress import Progress
from llamaweb.sampling import Sampling
from llamaweb.tokenizer import Tokenizer
from llamaweb.types import ChatCompletion, ChatCompletionChunk, Completion, CreateEmbedding

_OF_SAMPLING = ("temperature", "top_k", "top_p", "min_p")


class Calls:
    """What `Llama` has of these; the names, options and dicts are llama-cpp-python's and OpenAI's."""

    file: GGUFFile
    tokenizer: Tokenizer

    @property
    def plan(self) -> ModelPlan:
        raise NotImplementedError

    def _answering(
        self,
        prompt: str | bytes | Iterable[int],
        max_tokens: int | None,
        sampling: Sampling,
        stop: str | Sequence[str] | None = (),
        special: bool = False,
        ignore_eos: bool = False,
    ) -> tuple[Answer, Pieces]:
        raise NotImplementedError

    def _chat_prompt(self, messages: Any) -> list[int]:
        raise NotImplementedError

    async def embed(
        self,
        texts: str | bytes | Iterable[str | bytes | Iterable[int]],
        *,
        normalize: bool = True,
        special: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Any:
        raise NotImplementedError

    def create_completion(
        self,
        prompt: str | bytes | Iterable[int],
        suffix: str | bytes | None = None,
        *,
        max_tokens: int | None = 16,
        echo: bool = False,
        stream: bool = False,
        stream_options: dict[str, Any] | None = None,
        n: int = 1,
        seed: int | None = None,
        model: str | None = None,
        **options: Any,
    ) -> Reply[Completion, Completion]:
        """What follows `prompt` (text, its bytes or token ids), as OpenAI's text completion: `await` it for a
        `types.Completion`; with stream=True, `async for chunk in …`.

        suffix: a text that stands behind what is wanted, for models that can fill in the middle; the prompt is a text
        then. max_tokens: None or -1 goes on to the context's end. echo: the text begins with the prompt's. n: so many
        answers, 1 to 128, with seeds from `seed` on. stream_options: {"include_usage": True} for a last chunk with the
        usage. model: a name to show in place of the model's own. Other options as in `stream`; those of
        llama-cpp-python that this one does not have yet may be there as long as they ask for nothing. Raises
        LlamaWebError for what cannot be meant, ContextError for a prompt that does not fit; and while it goes on
        NotANumberError, GPUError.
        """
        asked = known_options(Text.call, arguments.keywords(self.create_completion), options)
        given = arguments.prompt("prompt", prompt, self.tokenizer.n_vocab)
        text = ""
        if arguments.flag("echo", echo):
            shown = self.tokenizer.decode(given) if isinstance(given, list) else given
            text = shown if isinstance(shown, str) else shown.decode(errors="replace")
        wanted = Wanted(n, seed, stream, stream_options, model)
        if suffix:
            if isinstance(given, list):
                raise LlamaWebError("A suffix stands behind a text, but prompt is token ids; give its text.")
            given = self.tokenizer.encode_fill_in(given, arguments.text("suffix", suffix))
        return self._reply(Text(text), given, max_tokens, wanted, asked)

    def create_chat_completion(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        max_tokens: int | None = None,
        max_completion_tokens: int | None = None,
        stream: bool = False,
        stream_options: dict[str, Any] | None = None,
        n: int = 1,
        seed: int | None = None,
        model: str | None = None,
        **options: Any,
    ) -> Reply[ChatCompletion, ChatCompletionChunk]:
        """The assistant's answer to `messages`, in the model's own chat template, as OpenAI's chat completion: `await`
        it for a `types.ChatCompletion`; with stream=True, `async for chunk in …` gives `types.ChatCompletionChunk`s.
        max_completion_tokens: another name of max_tokens. Options and errors as in `create_completion`."""
        asked = known_options(Chat.call, arguments.keywords(self.create_chat_completion), options)
        if max_tokens is not None and max_completion_tokens is not None and max_tokens != max_completion_tokens:
            raise LlamaWebError("max_tokens and max_completion_tokens differ, and mean the same; give one of them.")
        most = max_completion_tokens if max_tokens is None else max_tokens
        prompt = self._chat_prompt(messages)
        wanted = Wanted(n, seed, stream, stream_options, model)
        return self._reply(Chat(), prompt, most, wanted, asked)

    def __call__(self, prompt: str | bytes | Iterable[int], **options: Any) -> Reply[Completion, Completion]:
        """As `create_completion`."""
        return self.create_completion(prompt, **options)

    def _reply(
        self,
        form: Text | Chat,
        prompt: str | bytes | list[int],
        max_tokens: int | None,
        wanted: Wanted,
        options: dict[str, Any],
    ) -> Reply[Any, Any]:
        of_sampling = {name: options.pop(name) for name in _OF_SAMPLING if name in options}

        def answering(index: int, prompt: str | bytes | list[int]) -> tuple[Answer, Pieces]:
            sampling = Sampling(**of_sampling, seed=wanted.seed_of(index))
            return self._answering(prompt, max_tokens, sampling, **options)

        first = answering(0, prompt)  # whatever is wrong is told at once

        def begin(index: int) -> tuple[Answer, Pieces]:
            return answering(index, first[0].prompt) if index else first

        head = Head(form.kind, wanted.model or self._name, f"llamaweb-{__version__}-{self.file.digest[:12]}")
        streamed = chunks(head, form, begin, wanted.n, wanted.include_usage) if wanted.stream else None
        return Reply(form.call, lambda: whole(head, form, begin, wanted.n), streamed)

    def _encoded(self, texts: Sequence[str | bytes | list[int]], special: bool) -> list[list[int]]:
        encode = partial(self.tokenizer.encode, parse_special=special)
        return [text if isinstance(text, list) else encode(text) if text else [] for text in texts]

    @property
    def _name(self) -> str:
        return str(self.file.metadata.get("general.name") or self.file.architecture)

    async def create_embedding(
        self, input: str | bytes | Iterable[Any], *, model: str | None = None, special: bool = False
    ) -> CreateEmbedding:
        """Embeddings of a text or of texts (text, bytes or token ids), of length 1, as OpenAI's dict; as `embed`
        otherwise."""
        shown = arguments.word("model", model, None, "a name to show")
        texts = arguments.prompts("input", input, self.tokenizer.n_vocab)
        ids = self._encoded(texts, arguments.flag("special", special))
        found = await self.embed(ids)
        n_tokens = sum(map(len, ids))
        return {
            "object": "list",
            "model": shown or self._name,
            "data": [{"object": "embedding", "index": i, "embedding": each.tolist()} for i, each in enumerate(found)],
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }

    @property
    def metadata(self) -> dict[str, Any]:
        """What the model file's header says, by GGUF's keys."""
        return self.file.metadata

    def n_ctx(self) -> int:
        """Tokens that the context holds."""
        return self.plan.n_ctx

    def n_vocab(self) -> int:
        """Tokens of the vocabulary."""
        return self.tokenizer.n_vocab

    def token_bos(self) -> int:
        """The token that a text begins with, or -1 where the model has none."""
        return -1 if self.tokenizer.bos is None else self.tokenizer.bos

    def token_eos(self) -> int:
        """The token that a text ends with, or -1 where the model has none."""
        return -1 if self.tokenizer.eos is None else self.tokenizer.eos
