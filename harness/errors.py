"""The one exception type for mistakes that the user can mend, and words that messages share."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

_LONG = 200  # letters of a value that a message shows


class UserError(Exception):
    """A wrong setting, file or environment; its text names the setting, the value and what is allowed.

    Entry points print it without a traceback and exit with status 2.
    """


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Run a script and exit with what it returns; a user's mistake is told on stderr, with exit status 2.

    When whoever reads the output has enough of it, as `head` may, the script ends quietly with status 141, as one that
    SIGPIPE stopped.
    """
    try:
        status = main() or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        status = 2
    except (BrokenPipeError, SystemExit) as error:
        if not isinstance(error if isinstance(error, BrokenPipeError) else error.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own flush at the end complains
        status = 141
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        print(f"error: standard output: cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def closest(word: str, known: Sequence[str]) -> str:
    """A hint such as ` (did you mean gamma?)`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def error_text(error: BaseException) -> str:
    """An error in a line: a user's mistake in its own words, another with its kind."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def printable(text: str, kept: str = "\n\t") -> str:
    """Text without signs, but for the kept ones, that would steer a terminal or break a line of a log."""
    return "".join(s if s.isprintable() or s in kept else "\N{REPLACEMENT CHARACTER}" for s in text)


def shown(value: object) -> str:
    """A value as the user would write it in YAML; of a long one its beginning."""
    if value is None or isinstance(value, bool):
        text = "null" if value is None else str(value).lower()
    else:
        text = repr(value) if isinstance(value, str) and _reads_as_number(value) else str(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def in_words(size: int) -> str:
    """A number of bytes as people write it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
