"""What the fuzz tests share: wrong values and damaged bytes drawn with a seed, and what may come of them."""

import contextlib
import random
import re
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn

from sweep_scripts import Outcome

HANGS_AFTER = 60  # seconds; the slowest case takes two

# what Python or a library says to programmers, and no sentence for who typed a flag
_INTERNAL = re.compile(
    r"Traceback|NoneType|'\w+' object|object (is|has|cannot)|not iterable|: '\w+'$|unexpected keyword|invalid literal|"
    r"codec can't|unhashable|indices must be|not supported between|to unpack|too large to convert|maximum recursion|"
    r"panicked|Debug source"
)


class Hangs(BaseException):
    """Not an Exception: nobody who expects a failure is to take it for one."""


@contextlib.contextmanager
def in_time(seconds: int = HANGS_AFTER) -> Iterator[None]:
    """Whatever goes on inside is ended by Hangs when it takes longer."""

    def late(*_: object) -> NoReturn:
        raise Hangs(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judged(result: Outcome) -> str:
    """What was said of a mistake, "" of success. AssertionError: it is not said as a person can use it."""
    lines = result.err.splitlines()
    if result.status == 0:
        assert not lines, f"success, and yet {result.err!r}"
        return ""
    assert result.status in (1, 2)
    if result.status == 2:
        assert lines[0].startswith("usage: ")
        assert re.match(r"[\w.]+( \w+)?: error: ", lines[-1]), result.err
        return lines[-1]
    assert lines, "status 1, and nothing said"
    first, *failures = lines
    assert first.startswith("distsim: "), result.err
    heading = re.fullmatch(r"distsim: (\d+) failed, the rest is done:", first)
    others = sum(int(more) for line in failures for more in re.findall(r"^[^:]* and (\d+) more: ", line))
    assert len(failures) + others == (int(heading[1]) if heading else 0), result.err
    for line in failures or [first.removeprefix("distsim: ")]:
        assert len(line.strip()) > 15, result.err
        own = re.split(r"cannot read |is damaged: |\[Errno ", line)[0]  # what a decoder says then is its own affair
        assert not _INTERNAL.search(own), result.err
    return " ".join(lines)


def mentions(said: str, flag: str, value: str) -> bool:
    """Whether a sentence says which flag, or which value, is wrong."""
    name = "[-_ ]".join(map(re.escape, re.split("[-_]", flag.lstrip("-"))))
    begin = re.sub(r"[^\x21-\x7e].*", "", value.strip(), flags=re.DOTALL)[:30]
    return bool(re.search(name, said)) or (bool(begin) and begin in said)


# --- values ----------------------------------------------------------------------------------------------------------

NUMBERS = (
    *("-1", "0", "-0", "1" + "0" * 30, "-1" + "0" * 400, "9" * 400, "9" * 5000, "1e400", "-1e400"),
    *("nan", "inf", "-inf", "1.5", "0x10", "1e3", "1,5", "1 2", "", " ", "x", "é", "½", "None", "[1]", "%d", "--"),
)
TEXTS = (
    *(
        "",
        " ",
        "x",
        "é",
        "\N{SNOWMAN}",
        "\udcff",
        "line\nbreak",
        "\x1b[31m",
        "\t",
        "%s %n",
        "{}",
        "x" * 300,
        "-1",
        "nan",
    ),
    *("../..", "~nobody.here/x", "/dev/null", "/proc/nothing", "foo://x", "://", "s3://", "a,b", ",", "None", "'", '"'),
)


# --- bytes -----------------------------------------------------------------------------------------------------------


def truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One bit is another."""
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def scrambled(content: bytes, rng: random.Random) -> bytes:
    """Some bytes are others."""
    changed = bytearray(content)
    for _ in range(rng.randrange(2, 20)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


Damage = Callable[[bytes, random.Random], bytes]


def constant(content: bytes) -> Damage:
    return lambda before, rng: content


DAMAGE: dict[str, Damage] = {
    "truncated": truncated,
    "flipped": flipped,
    "scrambled": scrambled,
    "emptied": constant(b""),
    "zeros": lambda content, rng: bytes(len(content)),
    "doubled": lambda content, rng: content + content,
    "not text": lambda content, rng: b"\xff\xfe" + content,
    "null": constant(b"null"),
    "true": constant(b"true"),
    "a list": constant(b"[1, [2], {}]"),
    "no fields": constant(b"{}"),
    "text": constant(b'"text"'),
    "NaN": constant(b"NaN"),
    "a long number": constant(b"9" * 5000),
    "a large number": constant(b"1e999"),
    "deeply nested": constant(b"[" * 100_000),
    "deeply nested objects": constant(b'{"a":' * 100_000),
    "keys of nothing": constant(b'{"": null, "identity": 1, "hash": [], "objects": [], "sha256": {}, "runs": {}}'),
}
