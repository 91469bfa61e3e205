"""Ways in which a file is not any more what was written."""

import random
from pathlib import Path

_JSON = (b"", b"null", b"[]", b"{}", b"5", b'"text"', b"{", b"[" * 5000, b'{"a": NaN}', b"\xff\xfe\x00")


def damage(rng: random.Random, path: Path) -> str:
    """Damage the file, and say how; what it then holds is something else."""
    before = path.read_bytes()
    while True:
        how = rng.choice(list(_WAYS))
        after = _WAYS[how](rng, before)
        if after != before:
            break
    if after is None:
        path.unlink()
    else:
        path.write_bytes(after)
    return how


def _bit(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content or b"\0")
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _digit(rng: random.Random, content: bytes) -> bytes:
    """The worst place: what is read is sound by itself."""
    digits = [place for place in range(len(content)) if content[place : place + 1].isdigit()]
    if not digits:
        return _bit(rng, content)
    place = rng.choice(digits)
    return content[:place] + str(rng.randrange(10)).encode() + content[place + 1 :]


def _block(rng: random.Random, content: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    length = rng.choice([16, 512, 4096])
    return content[:start] + bytes(min(length, len(content) - start)) + content[start + length :]


def _line(rng: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    place = rng.randrange(len(lines))
    return b"".join(lines[:place] + rng.choice([[], [lines[place]] * 2]) + lines[place + 1 :])


_WAYS = {
    "a bit": _bit,
    "a digit": _digit,
    "cut": lambda rng, content: content[: rng.randrange(len(content) + 1)],
    "a block of zeros": _block,
    "a line lost or twice": _line,
    "longer": lambda rng, content: content + rng.randbytes(rng.randrange(1, 100)),
    "other content": lambda rng, content: rng.choice(_JSON),
    "gone": lambda rng, content: None,
}
