"""Write src/llamaweb/tokenizer/unicode_classes.py: which characters are \\p{L}, \\p{M}, \\p{N}, \\p{P},
\\p{S}, \\p{C} and \\s to the tokenizers.

The classes are those of Unicode 15.1, the version that llama.cpp's tokenizers use. Run it with Python 3.13 (whose
`unicodedata` is that version), or with PyPI's unicodedata2==15.1.0 installed:

    python tools/make_unicode_classes.py
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

UNICODE = "15.1.0"
TARGET = Path(__file__).parents[1] / "src/llamaweb/tokenizer/unicode_classes.py"

# The property White_Space; it has not changed since Unicode 6.3. Python's own \s also takes U+001C..U+001F.
WHITE_SPACE = {
    *range(0x09, 0x0E),
    0x20,
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
}

HEADER = '''\
"""Character classes of Unicode {version}: made by tools/make_unicode_classes.py, not by hand.

Each is a list of ranges: a range is `gap+length`, in base 16, the gap counted from the end of the range before it.
Python's `re` has no \\\\p{{L}}, its Unicode version changes with Python's, and its \\\\s is not Unicode's White_Space.
"""

'''


def category_of() -> Callable[[str], str]:
    import unicodedata

    if unicodedata.unidata_version == UNICODE:
        return unicodedata.category
    import unicodedata2  # type: ignore[import-not-found]

    if unicodedata2.unidata_version != UNICODE:
        raise SystemExit(f"Unicode {UNICODE} is needed, this is {unicodedata2.unidata_version}")
    return unicodedata2.category


def ranges(member: Callable[[int], bool]) -> str:
    """The code points for which `member` is true, as gap+length items."""
    items, end, start = [], 0, None
    for code in range(0x110001):
        inside = code < 0x110000 and member(code)
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            items.append(f"{start - end:x}+{code - start:x}")
            start, end = None, code
    return " ".join(items)


def main() -> None:
    category = category_of()
    names = {"LETTERS": "L", "MARKS": "M", "NUMBERS": "N", "PUNCTUATION": "P", "SYMBOLS": "S", "CONTROLS": "C"}
    classes = {
        # What is not assigned ("Cn") is of no class.
        **{
            name: ranges(lambda code: category(chr(code)) != "Cn" and category(chr(code))[0] == letter)  # noqa: B023
            for name, letter in names.items()
        },
        "WHITE_SPACE": ranges(WHITE_SPACE.__contains__),
    }
    text = HEADER.format(version=UNICODE)
    for name, value in classes.items():
        lines = "\n".join(textwrap.wrap(value, 116))
        text += f'{name} = """\n{lines}\n"""\n\n'
    TARGET.write_text(text.rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
