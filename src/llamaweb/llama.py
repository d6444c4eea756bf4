"""Llama: the object a user holds. `await Llama.load(...)`, then stream text, chat, tokenize, measure."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llamaweb.chat import render_chat
from llamaweb.errors import GPUError, LlamaWebError
from llamaweb.files.hub import hub_source
from llamaweb.files.sources import open_source
from llamaweb.generation import Generator, held_back, stop_at
from llamaweb.gpu.profiler import Profiler
from llamaweb.javascript import now_ms, wasm_heap_bytes
from llamaweb.kernels.mul_mat import PRECISIONS
from llamaweb.kernels.tuner import MODES, Trial
from llamaweb.loading import Loaded, LoadOptions
from llamaweb.loading import load as load_model
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.model.hub import ENDPOINT, Repository
from llamaweb.planner import ModelPlan
from llamaweb.profiling import Profile
from llamaweb.progress import Progress
from llamaweb.sampling import Sampling
from llamaweb.turns import Turns, begin

RECOVERS = ("off", "auto")


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-probability of `tokens` tokens."""

    perplexity: float
    tokens: int


class Llama:
    """A model on the GPU. Made by `Llama.load`; names follow llama-cpp-python."""

    def __init__(self, loaded: Loaded, again: Callable[[GGUFFile], Awaitable[Loaded]], recover: str = "off") -> None:
        """again: loads the model once more, whose header is still to be the given one."""
        self.tokens: list[int] = []  # of the last answer
        self._prompt: list[int] = []
        self._timings: dict[str, float] = {}
        self._again = again
        self._recovers = recover == "auto"
        self._recovering = asyncio.Lock()
        self._closed = False
        self._turns = Turns()
        self._take(loaded)

    def _take(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.file = loaded.file
        self.tokenizer = loaded.tokenizer
        self._executor = loaded.executor
        self._generator = Generator(loaded.executor, now_ms)
        self._timings |= {"load_ms": loaded.load_ms, "weights_ms": loaded.weights_ms}
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
        cache: bool = True,
        sha256: str | None = None,
        chat: bool = False,
        recover: str = "off",
        progress: Callable[[Progress], None] | None = None,
    ) -> Llama:
        """Loads a GGUF model onto the GPU.

        model: a URL, a File or Blob of the page, a file handle of the browser's storage, a list of these that are one
        model, or bytes; of a split model at a URL, any of its files. n_ctx: tokens the context holds; by default
        2,048, or what the model was trained for where that is less; 0 takes as many as fit. n_ubatch: most tokens of a
        prefill batch. memory_budget: bytes that all GPU buffers together may take at any time; batches may be smaller
        then, and what does not fit is refused before a weight is fetched. logits_all: allow `perplexity` and
        `log_probabilities`. type_k, type_v: the cache's formats, "f16", "f32", "q8_0" or "q4_0". tune: "auto" times
        kernel variants once a GPU, after the load and while no call is under way (see `tuned`), and keeps the fastest
        in the browser's storage (on a software adapter it only takes what is kept); "full" times all of them anew
        before the load ends; "off" takes the defaults. unfused: names of planner.FUSIONS to leave out, to measure what
        they bring. precision: of prompts, where the GPU has an integer dot product: "high" rounds activations to 16
        bits, which is as good as float32; "fast" to 8: faster, but small models give other answers. cache: keep a URL's
        files in the browser's storage (see llamaweb.cache), and read them from there the next time. sha256: of a URL's
        file, in hex. chat: refuse a model without a chat template before its weights are fetched. recover: "auto" makes
        a new device and loads the model again at the next call after the device was lost; "off" leaves that to
        `recover`. progress: is called with a Progress. A load that is cancelled gives all GPU memory back. Raises
        ModelFileError, UnsupportedError, ContextError, MemoryBudgetError, NoWebGPUError or GPUError.
        """
        named = (("tune", tune, MODES), ("precision", precision, tuple(PRECISIONS)), ("recover", recover, RECOVERS))
        for name, value, known in named:
            if value not in known:
                raise LlamaWebError(f"{name} is {value!r}; it must be one of: {', '.join(known)}.")
        options = LoadOptions(
            n_ctx, n_ubatch, memory_budget, logits_all, type_k, type_v, tune, unfused, precision, chat, progress
        )
        source = open_source(model, cache=cache, sha256=sha256)
        loaded = await load_model(source, options)
        fresh, same = source.again(), replace(options, n_ctx=loaded.executor.plan.n_ctx)
        return cls(loaded, lambda before: load_model(fresh.again(), same, before), recover)

    @classmethod
    async def from_pretrained(
        cls,
        repo_id: str,
        filename: str,
        *,
        revision: str = "main",
        token: str | None = None,
        endpoint: str = ENDPOINT,
        cache: bool = True,
        **options: Any,
    ) -> Llama:
        """Loads a model of the Hugging Face hub: of `repo_id`, the one file, or the one set of a split model's files,
        that the pattern `filename` fits, as "*q4_0.gguf". token: of the hub, for models that need one. Options as in
        `load`; raises ModelFileError for a pattern that fits none or several, with their names."""
        source = await hub_source(Repository(repo_id, revision, endpoint), filename, token, cache)
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
    def conversation(self) -> list[int]:
        """Tokens of the last prompt and of its answer so far: `stream(llm.conversation)` goes on with it."""
        return [*self._prompt, *self.tokens]

    @property
    def timings(self) -> dict[str, float]:
        """Of the last answer, in milliseconds, tokens and tokens a second."""
        return dict(self._timings)

    def tokenize(self, text: str | bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        return self.tokenizer.encode(text, add_special=add_bos, parse_special=special)

    def detokenize(self, tokens: Sequence[int], special: bool = False) -> bytes:
        return self.tokenizer.decode(tokens, special=special)

    async def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        special: bool = False,
        ignore_eos: bool = False,
    ) -> AsyncGenerator[str]:
        """The text that follows `prompt` (text or token ids), piece by piece.

        It ends at the model's end token, after `max_tokens` (default: the context's end) or before a `stop` text.
        `special` reads special tokens written in the prompt; `ignore_eos` goes on past the end token. Leave the loop
        at any time; the model stays usable.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, seed)
        stops = [stop] if isinstance(stop, str) else list(stop)
        ids = self.tokenize(prompt, special=special) if isinstance(prompt, str) else list(prompt)
        if any(not 0 <= id < self.tokenizer.n_vocab for id in ids):
            raise LlamaWebError(f"The prompt has token ids outside of 0 to {self.tokenizer.n_vocab - 1}.")
        with self._turns.call():
            await self._ready()
            limit = self.plan.n_ctx if max_tokens is None else max_tokens
            if limit < 1:
                raise LlamaWebError(f"max_tokens is {max_tokens}; ask for at least 1.")
            decoder = self.tokenizer.stream_decoder()
            self.tokens, self._prompt = [], ids
            text = ""
            began = first = last = now_ms()
            generation = self._generator.generate(ids, sampling, limit)
            try:
                async for token in generation:
                    last = now_ms()
                    first = last if not self.tokens else first
                    if token in self.tokenizer.eog and not ignore_eos:
                        break
                    self.tokens.append(token)
                    text, stopped = stop_at(text + decoder.push(token), stops)
                    ready = len(text) if stopped else len(text) - held_back(text, stops)
                    if ready:
                        yield text[:ready]
                        text = text[ready:]
                    if stopped:
                        return
                text, _ = stop_at(text + decoder.finish(), stops)
                if text:
                    yield text
            finally:
                await generation.aclose()
                self._time(len(ids), began, first, last)

    async def chat_stream(self, messages: Sequence[dict[str, Any]], **options: Any) -> AsyncGenerator[str]:
        """The assistant's answer to `messages` ({"role", "content"}), in the model's own chat template; options as
        in `stream`."""
        prompt = render_chat(self.file.metadata, list(messages))
        ids = self.tokenizer.encode(prompt, parse_special=True)
        if len(ids) > 1 and ids[0] == ids[1] == self.tokenizer.bos:  # the template writes it too
            ids = ids[1:]
        pieces = self.stream(ids, **options)
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    async def log_probabilities(self, tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability of each token but the first given those before it, and the most likely token at each
        position; needs `logits_all=True` at load."""
        if "evaluate" not in self.plan.phases:
            raise LlamaWebError("This model was loaded for generation only; load it with logits_all=True.")
        with self._turns.call():
            await self._ready()
            return await self._generator.log_probabilities(tokens)

    async def perplexity(
        self, text: str | bytes, n_ctx: int = 512, progress: Callable[[Progress], None] | None = None
    ) -> Perplexity:
        """Perplexity of a text in consecutive chunks of `n_ctx` tokens, each evaluated from an empty cache; the mean
        is over all tokens but each chunk's first. Special tokens in the text are not parsed."""
        ids = self.tokenizer.encode_to_evaluate(text)
        if not 2 <= n_ctx <= self.plan.n_ctx:
            raise LlamaWebError(f"Chunks of {n_ctx} tokens do not fit; ask for 2 to {self.plan.n_ctx}.")
        total, count = 0.0, 0
        for at in range(0, len(ids), n_ctx):
            log_p, _ = await self.log_probabilities(ids[at : at + n_ctx])
            total -= float(log_p.astype(np.float64).sum())
            count += len(log_p)
            if progress:
                progress(Progress("tokens", min(at + n_ctx, len(ids)), len(ids)))
        return Perplexity(math.exp(total / count), count)

    async def profile(
        self, *, n_prompt: int = 512, n_generate: int = 32, depth: int = 0, repetitions: int = 3
    ) -> Profile:
        """GPU time by kernel, of a prefill batch of up to `n_prompt` tokens and of a token on the average of
        `n_generate`, both behind `depth` cached tokens; the cached conversation is lost. Raises ContextError."""
        with self._turns.call():
            await self._ready()
            await self._generator.forget()
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
                raise GPUError("The model could not be loaded again when it was tried; call recover() once more.")

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

    def _time(self, prompt_tokens: int, begin: float, first: float, last: float) -> None:
        prompt_ms, generated_ms, generated = first - begin, last - first, len(self.tokens)
        self._timings = {
            "prompt_tokens": prompt_tokens,
            "prompt_ms": prompt_ms,
            "prompt_per_second": 1e3 * prompt_tokens / prompt_ms if prompt_ms else 0.0,
            "generated_tokens": generated,
            "generated_ms": generated_ms,
            "generated_per_second": 1e3 * (generated - 1) / generated_ms if generated > 1 and generated_ms else 0.0,
            "load_ms": self._loaded.load_ms,
            "weights_ms": self._loaded.weights_ms,
            "first_token_ms": prompt_ms,
        }
