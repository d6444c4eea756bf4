"""Texts of the tokenizer's golden files: chosen by hand, around the edges of character classes, random."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from llamaweb.tokenizer import unicode_classes
from llamaweb.tokenizer.byte_level import decode_utf8

CHOSEN = [
    "",
    " ",
    "Hello, world!",
    " Hello world",
    "The quick brown fox jumps over the lazy dog.",
    # apostrophes, both cases, straight and curly, and a long s, which (?i:s) would take for one
    "I'm you're he's we'll they've I'd can't IT'S YOU'RE WE'LL THEY'VE I'D CAN'T I'M It'Ll 'ſ 'ſt x'K don’t 's't'm'd'",
    "'' ''' 'a 'S'T'RE'VE'M'LL'D 're've 'l 'll' 'v 'r",
    # white space of all kinds
    "a b  c   d    e     f",
    "tab\there\t\tand\t\t\tthere \t mixed\t \t",
    "line\nline\n\nline\n\n\nline\r\nline\r\n\r\nline\rline\n \n  \n",
    "trailing spaces   ",
    "trailing newline\n",
    "trailing both  \n  ",
    "   leading",
    "\n\n  leading\n",
    "a\u00a0b\u00a0\u00a0c \u00a0d\u00a0 e\u3000f\u3000\u3000g \u3000 h\u2003i\u2009j\u202fk\u205fl\u1680m",
    "next\u0085line\u2028sep\u2029par \u0085 \u2028 \u2029",
    "vt\x0bff\x0c fs\x1cgs\x1drs\x1eus\x1f \x1c\x1d x \x1e\x1f 1\x1c2",
    "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom\u2060wj \u180e mongolian",
    "x \n y  \n  z \r\n\t w \u00a0\n v",
    "nul\x00inside \x00 \x01\x02\x03\x7f\x80\x9f end",
    # numbers
    "0 1 12 123 1234 12345 123456 1234567 12345678901234567890",
    "3.14159 1,000,000.00 1e-10 0xDEADBEEF 0b1010 1_000 +1 -2 ±3 50% $9.99 №5 ½ ¾ Ⅷ ⅷ ² ³",
    "①②③ ㊿ ٣٤٥ १२३ 一二三 ௧௨ 𝟘𝟙𝟚 a1b2c3 1a2b3c",
    "a   1  2 3   b1   \n1  \n 2",
    # scripts
    "Ünïcödé naïve café São Paulo Łódź Český jazyk Ærøskøbing İstanbul ıssız ß ẞ Straße",
    "cafe\u0301 e\u0301\u0302 n\u0303 A\u030a \u0301 alone a\u0301\u0301\u0301",
    "Zalgo: z\u0334\u0322a\u0335l\u0336g\u0337o\u0338",
    "Καλημέρα κόσμε, τι κάνεις; ΆΈΉΊΌΎΏ ᾳ ῼ",
    "Привет, мир! Как дела? Съешь ещё этих мягких французских булок. Ѣ ѳ ҂",
    "مرحبا بالعالم، كيف حالك؟ ١٢٣ لا إله",
    "שלום עולם, מה שלומך? נִקּוּד",
    "नमस्ते दुनिया, आप कैसे हैं? क्षत्रिय ज्ञान १२३",
    "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง ๑๒๓ น้ำ",
    "你好，世界！今天天气怎么样？《红楼梦》第12回 𠮷野家 㐀㐁 𪚥",
    "こんにちは世界。カタカナ ﾊﾝｶｸ ひらがな、ー々〆 ｱｲｳ",
    "안녕하세요 세계 ㄱㄴㄷ 한국어 텍스트 각",
    "Xin chào thế giới, Tiếng Việt có dấu. ăâđêôơư",
    "தமிழ் తెలుగు ಕನ್ನಡ മലയാളം বাংলা ગુજરાતી ਪੰਜਾਬੀ ଓଡ଼ିଆ සිංහල ខ្មែរ ລາວ မြန်မာ བོད་ཡིག ქართული Հայերեն አማርኛ ᏣᎳᎩ ᚠᚢᚦ",
    "𐍈𐌰𐌹 𓀀𓂀 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝐁𝐨𝐥𝐝 ﬁﬂ ﷺ Ａｂｃ１２３ ℃ ™ © ® ª º µ",
    # emoji
    "😀 😃😄 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 1️⃣ ❤️ ☺ ☺️ 🤷🏿‍♀️ ✈️🚀",
    "text👍text 👍 text👍👍 1👍2 '👍 👍's",
    # unassigned, private, non-characters
    "\u0378 \u0380 \u05ff \ue000\uf8ff \ufdd0 \ufffe \uffff \U0003ffff \U000e0041",
    "\U000f0000 \U0010ffff \u2fe0 \U0002ebf0\U0002ee5d\U0002ee5e",
    "\ufffd \ufffd\ufffd a\ufffdb",
    # code
    "def f(x: int) -> int:\n    if x <= 1:\n        return 1\n    return x * f(x - 1)  # n!\n",
    'for (int i = 0; i < 10; ++i) {\n\tprintf("%d\\n", a[i]->b.c);\r\n}\n\n\n',
    '{"key": [1, 2.5, null, true], "s": "a\\u00e9\\n"}',
    "<html><body class='x'>&nbsp;</body></html> <!-- c -->",
    "SELECT * FROM t WHERE a='b' AND c<>d; -- x",
    "https://example.org/a/b?c=d&e=%20#f user@example.org C:\\Users\\x ~/.cache ../..",
    "a_b __init__ camelCaseWord SCREAMING_CASE kebab-case x86_64 e.g. i.e. U.S.A. ... … — – -- --- === !== ??? !!!",
    "((()))[[]]{{}} <<<>>> ||| &&& $$$ ### @@@ *** ^^^ ``` ~~~ \"\"\" ''' ,,, ;;;",
    "a" * 200,
    "ab" * 150,
    " " * 130,
    "\n" * 70,
    " \n" * 40,
    "=" * 100,
    "1" * 100,
    "é" * 60,
    "ha" * 50 + " " + "na" * 50,
    "pneumonoultramicroscopicsilicovolcanoconiosis Donaudampfschifffahrtsgesellschaftskapitän",
    # special tokens, whole, cut, nested and overlapping
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>a<|endoftext|><|endoftext|> b <|endoftext|>",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "<|im_start|",
    "<|im_<|im_end|>start|>",
    "<|<|endoftext|>|>",
    "<|im_start|><|im_start|>",
    "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|><|fim_pad|><|repo_name|>x<|file_sep|>y",
    "<tool_call>\n{}\n</tool_call> <tool_call></tool_call>",
    "<|reserved_special_token_0|> <|reserved_special_token_250|> <|vision_start|><|box_end|>",
    "<repo_name>a<reponame>b<file_sep>c<filename>d<gh_stars>1<issue_start><jupyter_start><empty_output> <s> </s> <unk>",
    "[PAD151700] [EMPTY_5]",
]

INVALID = [
    b"\xff",
    b"\x80",
    b"a\xffb\xfe\xfdc",
    b"\xc3",
    b"\xc3(",
    b"\xe2\x82",
    b"\xe2\x82(",
    b"\xe2(\xa1",
    b"\xf0\x9f\x98",
    b"\xf0\x9f\x98 x",
    b"\xf0\x9f\x98\x80\x80",
    b"\xf8\x88\x80\x80\x80 \xfc\x84\x80\x80\x80\x80",
    b"\xc0\x80 \xc1\xbf \xe0\x80\x80 \xe0\x9f\xbf \xf0\x80\x80\x80 \xc0\xa0x\xc0\xa0",
    b"\xed\xa0\x80 \xed\xbf\xbf \xed\xa0\xbd\xed\xb8\x80",
    b"caf\xe9 na\xefve \xfcber stra\xdfe",
    b"\xff\xfeh\x00i\x00",
    b"ok \xe4\xbd <|im_end|>\xa0 ok\xe4",
]

_POOLS = [
    "abcdefghijklmnopqrstuvwxyz",
    "etaoin shrdlu ",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    "'’sStTrReEvVmMlLdD",
    " \t\n\r",
    " \u00a0\u3000\u2003\u2028\u0085\u200b\x0b\x0c\x1c\x1f",
    '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~',
    "éèüñçßøåÅŁżőİıǅʰ\u0301\u0308\u0327",
    "αβγδέΩΣςἀᾳ",
    "абвгдёЖЩѣ҈",
    "ابتثجحخد١٢٣ًٌّ،؟",
    "אבגדהשלםִָּ",
    "कखगघनमस्तेिाीु१२३।",
    "กขคงสวัดีเ์้๑๒",
    "你好世界的是不了一二三，。！《》",
    "あいうアイウー々ｱ。、",
    "안녕하세요한국어ㄱㅏ",
    "😀👍🏽👩\u200d👧❤\ufe0f🇩🇪☺",
    "½²Ⅷ①५𝟘〇",
    "\u0378\ue000\uffff\U0003ffff\U0010ffff\ufdd0",
    "\x00\x01\x07\x1b\x7f\u0080\u009f\u00ad",
]


def boundary_texts() -> list[bytes]:
    """Every first and last member of a character class's range, and the code points beside them, among other text."""
    codes: set[int] = set()
    for table in (unicode_classes.LETTERS, unicode_classes.NUMBERS, unicode_classes.WHITE_SPACE):
        end = 0
        for item in table.split():
            gap, length = item.split("+")
            start = end + int(gap, 16)
            end = start + int(length, 16)
            codes |= {start - 1, start, end - 1, end}
    characters = [chr(code) for code in sorted(codes) if 0 <= code < 0x110000]
    groups = [characters[first : first + 6] for first in range(0, len(characters), 6)]
    # Beside a letter, a digit, spaces and itself: each class cuts these differently.
    return [" ".join(f"a{c}b1{c}2 {c}{c}  " for c in group).encode("utf-8", "surrogatepass") for group in groups]


def random_texts(count: int, seed: int) -> list[bytes]:
    """Short random texts, most from one to three scripts, some from all code points, some not UTF-8 at all."""
    rng = random.Random(seed)
    texts = []
    for index in range(count):
        kind = index % 10
        if kind == 0:  # any code point
            text = "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randint(1, 8)))
            texts.append(text.encode("utf-8", "surrogatepass"))
        elif kind == 1:  # bytes; none above 0xF3, which could spell a code point above U+10FFFF
            texts.append(
                bytes(rng.choice((rng.randrange(128), rng.randrange(128, 0xF4))) for _ in range(rng.randint(1, 16)))
            )
        else:
            pools = rng.sample(_POOLS, rng.randint(1, 3))
            pieces = ["".join(rng.choices(rng.choice(pools), k=rng.randint(1, 5))) for _ in range(rng.randint(1, 8))]
            texts.append(rng.choice(("", " ")).join(pieces).encode())
    return texts


def plainly_spaced(texts: list[bytes]) -> list[bytes]:
    """The texts that spell no space in more bytes than one, where llama.cpp ends if tokens are not written in bytes."""
    return [text for text in texts if " " not in decode_utf8(text.replace(b" ", b""))]


def spaced_texts(metadata: dict[str, Any], count: int = 400) -> list[bytes]:
    """Texts of special tokens of a vocabulary, words, and white space of all kinds beside them."""
    rng = random.Random(2)
    types = metadata["tokenizer.ggml.token_type"]
    special = [metadata["tokenizer.ggml.tokens"][token] for token in np.flatnonzero((types != 1) & (types != 6))]
    blanks = [b" ", b"  ", b"\n", b"\t ", b" \r\n", b"\v\f", "\u00a0".encode(), b""]
    parts = (special, blanks, [b"a", b"hello", b" the", b"<"], blanks)
    return [b"".join(rng.choice(rng.choice(parts)) for _ in range(rng.randint(1, 12))) for _ in range(count)]
