"""Llama: the object a user holds. `await Llama.load(...)`, then stream text, chat, tokenize, measure."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self

import numpy as np

from llamaweb import arguments
from llamaweb.answer import Answer, Pieces
from llamaweb.architectures.embeddings import no_embeddings, no_text
from llamaweb.architectures.metadata import Metadata
from llamaweb.calls import Calls
from llamaweb.chat import render_chat
from llamaweb.chat.messages import plain_messages
from llamaweb.embedding import check_texts, embed, normalized
from llamaweb.errors import GPUError, LlamaWebError, NotANumberError
from llamaweb.evaluation import Perplexity, perplexity
from llamaweb.files.hub import hub_source
from llamaweb.files.sources import open_source
from llamaweb.generation import Generator, no_numbers
from llamaweb.gpu.checker import first_appearance
from llamaweb.gpu.profiler import Profiler
from llamaweb.javascript import now_ms, wasm_heap_bytes
from llamaweb.kernels.cache import CACHE_FORMATS
from llamaweb.kernels.mul_mat import PRECISIONS
from llamaweb.kernels.tuner import MODES, Trial
from llamaweb.loading import Loaded, LoadOptions
from llamaweb.loading import load as load_model
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.model.hub import ENDPOINT, Repository
from llamaweb.planner import FUSIONS, ModelPlan
from llamaweb.pooling import POOLINGS
from llamaweb.profiling import Profile
from llamaweb.progress import Progress
from llamaweb.sampling import Sampling
from llamaweb.turns import Turns, begin
from llamaweb.writing import written

RECOVERS = ("off", "auto")


class Llama(Calls):
    """A model on the GPU. Made by `await Llama.load(model)`; names follow llama-cpp-python. What is given is checked
    before anything is done, and no error, cancellation or reader who goes away leaves a model that cannot go on."""

    _answer: Answer  # the last one
    _again: Callable[[GGUFFile], Awaitable[Loaded]]  # with the header that it is still to have
    _recovers: bool
    _checks: bool
    _recovering: asyncio.Lock
    _closed: bool
    _turns: Turns

    def __init__(self, *_: Any, **__: Any) -> None:
        raise LlamaWebError("A model is loaded by `await Llama.load(model)`, which gives the Llama; call that instead.")

    @classmethod
    def _of(cls, loaded: Loaded, again: Callable[[GGUFFile], Awaitable[Loaded]], recover: str, checks: bool) -> Self:
        llm = cls.__new__(cls)
        llm._answer = Answer()
        llm._again = again
        llm._recovers = recover == "auto"
        llm._checks = checks
        llm._recovering = asyncio.Lock()
        llm._closed = False
        llm._turns = Turns()
        llm._take(loaded)
        return llm

    def _take(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.file = loaded.file
        self.tokenizer = loaded.tokenizer
        self._executor = loaded.executor
        self._generator = Generator(loaded.executor, now_ms)
        self._rest = begin(loaded.finish(self._turns, self._generator.spare))  # the next call meets a failure, too

    async def _free(self) -> None:
        """Gives the GPU's memory back, when what uses it in the background has ended."""
        self._rest.cancel()
        await asyncio.wait([self._rest])
        self._loaded.free()

    async def tuned(self) -> None:
        """Waits until tuning has ended, which goes on in the background while no call is under way. Nobody has to wait:
        answers are the same before, and may be slower. Raises GPUError if tuning could not go on."""
        await asyncio.wait([self._rest])
        if not self._rest.cancelled() and (error := self._rest.exception()):
            raise error

    @classmethod
    async def load(
        cls,
        model: Any,
        *,
        n_ctx: int | None = None,
        n_ubatch: int = 512,
        memory_budget: int | None = None,
        logits_all: bool = False,
        type_k: str = "f16",
        type_v: str = "f16",
        tune: str = "auto",
        unfused: Collection[str] = (),
        precision: str = "high",
        cache: bool | str = True,
        sha256: str | None = None,
        chat: bool = False,
        recover: str = "off",
        check: bool = False,
        self_check: bool = True,
        offload: str = "auto",
        pooling: str | None = None,
        progress: Callable[[Progress], None] | None = None,
        **others: Any,
    ) -> Llama:
        """Loads a GGUF model onto the GPU.

        model: a URL, a File or Blob of the page, a file handle of the browser's storage, a list of these that are one
        model, a Response, a ReadableStream, bytes of JavaScript or Python, a path or an open file of Python's; of a
        split model at a URL, any of its files. n_ctx: tokens the context holds; by default 2,048, or what the model was
        trained for where that is less; 0 takes as many as fit. n_ubatch: most tokens of a prefill batch. memory_budget:
        bytes that all GPU buffers together may take at any time; batches may be smaller then, and what does not fit is
        refused before a weight is fetched. logits_all: allow `perplexity` and `log_probabilities`. type_k, type_v: the
        cache's formats, "f16", "f32", "q8_0" or "q4_0". tune: "auto" times kernel variants once a GPU, after the load
        and while no call is under way (see `tuned`), and keeps the fastest in the browser's storage (on a software
        adapter it only takes what is kept); "full" times all of them anew before the load ends; "off" takes the
        defaults. unfused: names of planner.FUSIONS to leave out, to measure what they bring. precision: of prompts,
        where the GPU has an integer dot product: "high" rounds activations to 16 bits, which is as good as float32;
        "fast" to 8: faster, but small models give other answers. cache: keep a URL's files in the browser's storage
        (see llamaweb.cache), and read them from there the next time; what is kept stands in for a server that refuses
        the file with a CacheWarning alone; "only" takes what is kept and asks no server. sha256: of a URL's file, in
        hex. chat: refuse a model without a chat template before its weights are fetched. recover: "auto" makes a new
        device and loads the model again at the next call after the device was lost; "off" leaves that to `recover`.
        progress: is called with a Progress. check: look for weights that are no numbers (NaN or infinite), and tell
        where logits that are none come from. self_check: run each kernel once on made data before it is used, and take
        the plain variant of one that this GPU computes wrongly; what was found is kept, by device, so that it happens
        once. offload: "embeddings" leaves tables of which rows are looked up by token, and nothing else, in
        JavaScript's memory, which takes less of the GPU's and waits for each token; "auto" does so where the memory
        budget asks for it, "none" never. pooling: "mean", "cls", "last" or "none", to load any model for `embed`, with
        the memory for whole texts in place of a cache; None: the file's, if the model is for that. A load that is
        cancelled gives all GPU memory back. others: what llama-cpp-python's says of CPUs and several GPUs
        (n_gpu_layers, n_threads, …) means nothing here and is left out with one OptionWarning. Raises ModelFileError,
        CacheError, UnsupportedError, NotANumberError, ContextError, MemoryBudgetError, NoWebGPUError or GPUError, and
        LlamaWebError for what cannot be meant.
        """
        arguments.check_others("Llama.load", others, arguments.keywords(cls.load))
        options = LoadOptions(
            n_ctx,
            512 if n_ubatch is None else n_ubatch,
            memory_budget,
            arguments.flag("logits_all", logits_all),
            arguments.one_of("type_k", type_k, "f16", CACHE_FORMATS),
            arguments.one_of("type_v", type_v, "f16", CACHE_FORMATS),
            arguments.one_of("tune", tune, "auto", MODES),
            arguments.some_of("unfused", unfused, FUSIONS),
            arguments.one_of("precision", precision, "high", tuple(PRECISIONS)),
            arguments.flag("chat", chat),
            arguments.callback("progress", progress),
            arguments.flag("check", check),
            arguments.flag("self_check", self_check),
            arguments.one_of("offload", offload, "auto", arguments.OFFLOADS),
            None if pooling is None else arguments.one_of("pooling", pooling, "none", POOLINGS),
        )
        recover = arguments.one_of("recover", recover, "off", RECOVERS)
        sha256 = arguments.word("sha256", sha256, None, "64 digits in hex, or None")
        source = open_source(model, cache=arguments.flag_or("cache", cache, True, "only"), sha256=sha256)
        loaded = await load_model(source, options)
        fresh, same = source.again(), replace(options, n_ctx=loaded.executor.plan.n_ctx)
        return cls._of(loaded, lambda before: load_model(fresh.again(), same, before), recover, options.check)

    @classmethod
    async def from_pretrained(
        cls,
        repo_id: str,
        filename: str,
        *,
        revision: str = "main",
        token: str | None = None,
        endpoint: str = ENDPOINT,
        cache: bool | str = True,
        **options: Any,
    ) -> Llama:
        """Loads a model of the Hugging Face hub: of `repo_id`, the one file, or the one set of a split model's files,
        that the pattern `filename` fits, as "*q4_0.gguf". token: of the hub, for models that need one. Options as in
        `load`; raises ModelFileError for a pattern that fits none or several, with their names."""
        told = "a text that is not empty"
        repository = Repository(
            str(arguments.word("repo_id", repo_id, "", "the name of a repository, as 'owner/name'")),
            str(arguments.word("revision", revision, "main", told)),
            str(arguments.word("endpoint", endpoint, ENDPOINT, told)),
        )
        name = str(arguments.word("filename", filename, "", "the name of a file, or a pattern as '*q4_0.gguf'"))
        token = arguments.word("token", token, None, told)
        source = await hub_source(repository, name, token, arguments.flag_or("cache", cache, True, "only"))
        return await cls.load(source, **options)

    @property
    def plan(self) -> ModelPlan:
        return self._executor.plan

    @property
    def trials(self) -> list[Trial]:
        """Kernel variants that were timed for this model so far."""
        return self._loaded.tuning.trials

    @property
    def adapter(self) -> str:
        return self._executor.device.profile.name

    @property
    def dispatches_per_token(self) -> int:
        return self.plan.dispatches_per_token

    @property
    def memory(self) -> dict[str, int]:
        """Bytes: weights, kv, arena, io, their total on the GPU and the most there were while loading, and the size of
        Python's WebAssembly heap."""
        return {**self.plan.memory, "wasm_heap": wasm_heap_bytes()}

    @property
    def tokens(self) -> list[int]:
        """Of the last answer."""
        return self._answer.tokens

    @property
    def finish_reason(self) -> str | None:
        """Why the last answer ended: "stop" or "length", as OpenAI's; None while it goes on, or where it was broken
        off."""
        return self._answer.finish_reason

    @property
    def stopped_by(self) -> str | None:
        """What ended the last answer: a stop text or the end token as text ("stop"), "max_tokens" or "context"
        ("length")."""
        return self._answer.stopped_by

    @property
    def conversation(self) -> list[int]:
        """Tokens of the last prompt and of its answer so far: `stream(llm.conversation)` goes on with it."""
        return self._answer.conversation

    def reset(self) -> None:
        """Forgets the conversation: the next answer reads its whole prompt. An answer under way is ended."""
        self._answer = Answer()
        self._generator.reset()

    @property
    def timings(self) -> dict[str, float]:
        """Of the last answer, in milliseconds, tokens and tokens a second."""
        times = {"load_ms": self._loaded.load_ms, "weights_ms": self._loaded.weights_ms}
        return {**self._answer.timings, **times}

    def tokenize(self, text: str | bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Token ids of a text, with the model's begin token unless `add_bos` is False; `special` reads special tokens
        that are written in it."""
        add_bos, special = arguments.flag("add_bos", add_bos, True), arguments.flag("special", special)
        return self.tokenizer.encode(arguments.text("text", text), add_special=add_bos, parse_special=special)

    def detokenize(self, tokens: Iterable[int], special: bool = False) -> bytes:
        """The bytes of tokens; special ones have some only with `special`."""
        ids = arguments.token_ids("tokens", tokens, self.tokenizer.n_vocab)
        return self.tokenizer.decode(ids, special=arguments.flag("special", special))

    def stream(
        self,
        prompt: str | bytes | Iterable[int],
        *,
        max_tokens: int | None = None,
        temperature: float | None = 0.8,
        top_k: int | None = 40,
        top_p: float | None = 0.95,
        min_p: float | None = 0.05,
        seed: int | None = None,
        stop: str | Sequence[str] | None = (),
        special: bool = False,
        ignore_eos: bool = False,
        **others: Any,
    ) -> Pieces:
        """The text that follows `prompt` (text, its bytes or token ids), piece by piece: `async for piece in …`.

        It ends at the model's end token, after `max_tokens` (None or -1: at the context's end) or before a `stop` text;
        `finish_reason` and `stopped_by` tell. `special` reads special tokens written in the prompt; `ignore_eos` goes
        on past the end token. None is an option's default. Leave the loop at any time; the model stays usable. Raises
        LlamaWebError for what cannot be meant, ContextError for a prompt that does not fit; and while it goes on
        NotANumberError, GPUError.
        """
        for name in others:
            raise arguments.unknown("An answer", name, arguments.keywords(self.stream))
        return self._answering(
            prompt, max_tokens, Sampling(temperature, top_k, top_p, min_p, seed), stop, special, ignore_eos
        )[1]

    def _answering(
        self,
        prompt: str | bytes | Iterable[int],
        max_tokens: int | None,
        sampling: Sampling,
        stop: str | Sequence[str] | None = (),
        special: bool = False,
        ignore_eos: bool = False,
    ) -> tuple[Answer, Pieces]:
        """What `stream` gives, and the answer that it is of."""
        told = "a whole number of tokens from 1 on, or -1 for all that the context has room for"
        limit = arguments.whole("max_tokens", max_tokens, -1, -1, math.inf, told)
        if not limit:
            raise arguments.wrong("max_tokens", max_tokens, told)
        stops = arguments.texts("stop", stop)
        special, ignore_eos = arguments.flag("special", special), arguments.flag("ignore_eos", ignore_eos)
        given = arguments.prompt("prompt", prompt, self.tokenizer.n_vocab)
        self._check_generates()
        ids = given if isinstance(given, list) else self.tokenizer.encode_prompt(given, parse_special=special)
        self._generator.check_prompt(ids)
        end = frozenset[int]() if ignore_eos else self.tokenizer.eog
        answer = Answer(ids)
        return answer, Pieces(self._pieces(answer, sampling, limit, stops, end), "stream", "complete")

    async def _pieces(
        self, answer: Answer, sampling: Sampling, limit: int, stops: Sequence[str], end: frozenset[int]
    ) -> AsyncGenerator[str]:
        async with self._call():
            self._answer = answer
            generation = self._generator.generate(answer.prompt, sampling, self.plan.n_ctx if limit < 0 else limit)
            text = written(
                answer, generation, self.tokenizer, limit, stops, end, now_ms, lambda: self._generator.reused
            )
            try:
                async for piece in text:
                    yield piece
            except NotANumberError as error:
                raise await self._located(error, answer.conversation) from error
            finally:
                await text.aclose()

    async def complete(self, prompt: str | bytes | Iterable[int], **options: Any) -> str:
        """The whole text that follows `prompt`; options as in `stream`."""
        return await self.stream(prompt, **options).joined()

    def chat_stream(self, messages: Sequence[dict[str, Any]], **options: Any) -> Pieces:
        """The assistant's answer to `messages` ({"role", "content"}), in the model's own chat template, piece by piece;
        options as in `stream`. A content may be a list of OpenAI's text parts."""
        return self.stream(self._chat_prompt(messages), **options).called("chat_stream", "chat")

    def _chat_prompt(self, messages: Any) -> list[int]:
        self._check_generates()
        tok = self.tokenizer
        bos, eos = tok.written(tok.bos), tok.written(tok.eos)
        prompt = render_chat(self.file.metadata, plain_messages(messages), bos_token=bos, eos_token=eos)
        return tok.encode_prompt(prompt, parse_special=True)

    async def chat(self, messages: Sequence[dict[str, Any]], **options: Any) -> str:
        """The assistant's whole answer to `messages`; options as in `stream`."""
        return await self.chat_stream(messages, **options).joined()

    async def embed(
        self,
        texts: str | bytes | Iterable[str | bytes | Iterable[int]],
        *,
        normalize: bool = True,
        special: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Any:
        """Embeddings of texts (text, bytes or token ids), by the model's own pooling, several in one batch: float32
        (texts, n_embd), of a single text (n_embd,); without pooling those of tokens, a list with (n_tokens, n_embd) of
        each. normalize: to length 1. special: reads special tokens that are written in the texts. Raises LlamaWebError
        for what cannot be meant, ContextError for a text that is empty or longer than the context."""
        normalize, special = arguments.flag("normalize", normalize, True), arguments.flag("special", special)
        arguments.callback("progress", progress)
        given = arguments.prompts("texts", texts, self.tokenizer.n_vocab)
        ids = self._encoded(given, special)
        plan = self.plan
        if not plan.embeddings:
            raise no_embeddings()
        check_texts(ids, plan, Metadata(self.file).count("context_length", largest=1 << 31))
        async with self._call(), self._generator.alone():
            found = await embed(self._executor, ids, progress)
        found = [normalized(each) for each in found] if normalize else found
        if isinstance(texts, str | bytes | bytearray | memoryview):
            return found[0]
        return found if plan.embeddings.pooling == "none" else np.array(found).reshape(-1, plan.embeddings.length)

    async def log_probabilities(self, tokens: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability of each token but the first given those before it, and the most likely token at each
        position; needs `logits_all=True` at load."""
        told = "a list of token ids, at least one"
        ids = arguments.token_ids("tokens", tokens, self.tokenizer.n_vocab, told)
        if not ids:
            raise arguments.wrong("tokens", ids, told)
        self._check_evaluates()
        async with self._call():
            try:
                return await self._generator.log_probabilities(ids)
            except NotANumberError as error:
                raise await self._located(error, ids) from error

    async def _located(self, error: NotANumberError, tokens: Sequence[int]) -> NotANumberError:
        """The error with where its numbers come from, in a model that was loaded to tell."""
        if not self._checks:
            return error
        async with self._generator.alone():
            return no_numbers(*await first_appearance(self._executor, tokens))

    async def perplexity(
        self, text: str | bytes, n_ctx: int | None = None, progress: Callable[[Progress], None] | None = None
    ) -> Perplexity:
        """Perplexity of a text in consecutive chunks of `n_ctx` tokens (512, or what the context holds), each evaluated
        from an empty cache; the mean is over all tokens but each chunk's first. Special tokens in the text are not
        parsed."""
        most = self.plan.n_ctx
        told = f"a whole number of tokens a chunk from 2 to the context's {most}"
        chunk = arguments.whole("n_ctx", n_ctx, min(512, most), 2, most, told)
        arguments.callback("progress", progress)
        ids = self.tokenizer.encode_to_evaluate(arguments.text("text", text))
        self._check_evaluates()
        return await perplexity(self.log_probabilities, ids, chunk, progress)

    def _check_generates(self) -> None:
        if self.plan.embeddings:
            raise no_text()

    def _check_evaluates(self) -> None:
        self._check_generates()
        if "evaluate" not in self.plan.phases:
            raise LlamaWebError("This model was loaded for generation only; load it with logits_all=True.")

    async def profile(
        self, *, n_prompt: int = 512, n_generate: int = 32, depth: int = 0, repetitions: int = 3
    ) -> Profile:
        """GPU time by kernel, of a prefill batch of up to `n_prompt` tokens and of a token on the average of
        `n_generate`, both behind `depth` cached tokens; the cached conversation is lost. Raises ContextError."""
        told, most = "a whole number of tokens, 0 or more", math.inf
        n_prompt = arguments.whole("n_prompt", n_prompt, 512, 0, most, told)
        n_generate = arguments.whole("n_generate", n_generate, 32, 0, most, told)
        depth = arguments.whole("depth", depth, 0, 0, most, told)
        repetitions = arguments.whole("repetitions", repetitions, 3, 1, 10_000, "a whole number from 1 to 10000")
        self._check_generates()
        async with self._call(), self._generator.alone():
            await self._executor.prepare()
            return await Profiler(self._executor, repetitions).profile(n_prompt, n_generate, depth)

    async def recover(self) -> None:
        """Makes a new device and loads the model onto it, from the same source with the same options: a URL's files
        from the browser's storage, without a question to their server, if they are there.

        `conversation` is kept, and the next answer reads again what its prompt shares with it. Raises as `load` does,
        and may be called again then. A file that is another one by now, whose tokens may mean other text, is not taken
        but raises ModelChangedError: `detokenize(conversation)` still gives the text, for a model that is loaded anew.
        """
        async with self._recovering:
            await self._load_again()

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        """Around a call that needs the GPU: work in the background rests, and a recovery meanwhile is told as one."""
        with self._turns.call():
            await self._ready()
            device = self._executor.device
            try:
                yield
            except GPUError as error:
                if device is self._executor.device or device.lost or self._closed:
                    raise
                raise LlamaWebError(
                    "The model was loaded again by recover(), which ended this call; begin it anew, an answer with "
                    "stream(llm.conversation)."
                ) from error

    async def _ready(self) -> None:
        """Before a call that needs the GPU: a recovery that is under way is waited for, and a lost device is replaced,
        if that was asked for."""
        async with self._recovering:
            device = self._executor.device
            if self._closed or not (device.lost or device.closed):
                return
            if self._recovers:
                await self._load_again()
            elif device.closed and not device.lost:
                raise GPUError("The model could not be loaded again when it was tried; begin again with recover().")

    async def _load_again(self) -> None:
        if self._closed:
            raise LlamaWebError("The model was closed; load it again.")
        await self._free()
        loaded = await self._again(self.file)
        if self._closed:  # in the meantime
            loaded.free()
            raise LlamaWebError("The model was closed while it was loaded again.")
        self._take(loaded)

    async def close(self) -> None:
        """Gives all GPU memory back."""
        self._closed = True
        await self._free()

    async def __aenter__(self) -> Llama:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
