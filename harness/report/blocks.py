"""What a report is made of: headings, text, tables and pictures, in no particular markup."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

ROWS = 25  # of a table; the rest are counted


@dataclass(frozen=True)
class Heading:
    """A title; level 1 is the report's."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """A table cell; `value` is what a reader would sort it by, None if that is its text."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A table; the first column is text, the others are numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A picture file of the report, by name, and what it shows."""

    name: str
    caption: str


Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column of a table: its title, and how its cell follows from what a row is about."""

    title: str
    cell: Callable[[Row], Cell]


def table(columns: Sequence[Column[Row]], rows: Iterable[Row]) -> Table:
    """The table that has a row for each of `rows`."""
    cells = tuple(tuple(column.cell(row) for column in columns) for row in rows)
    return Table(tuple(column.title for column in columns), cells)


Block = Heading | Paragraph | Bullets | Table | Picture
