"""Declare reports.

A ``Report`` is declared once, in ``catalog``: what it can be asked for, its columns, and the function that
finds its rows. The API with its schema, the CSV, the command and the page in the admin follow from that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from operator import attrgetter
from typing import Any, ClassVar

from licenses.clock import database_now
from licenses.leases import capacity
from licenses.models import Team, Tool
from licenses.models.tool import MAX_CAPACITY

from .reports import Span
from .tables import Table

Value = str | int | float | date | None


class TooLarge(ValueError):
    """The report is larger than the caller may ask for. The message is for the user."""


class Missing(ValueError):
    """There is no tool or team of this name. The message is for the user."""

    def __init__(self, asked: "RowParameter", name: str) -> None:
        super().__init__(f"There is no {asked.model._meta.verbose_name} {name!r}.")
        self.asked = asked


# --- What a report can be asked for, except its days -------------------------


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A part of the question: of the query, an option of the command, a field of the form."""

    name: str
    help: str = ""
    required: bool = False


class RowParameter(Parameter):
    """The name of a row. The report gets the row, or None."""

    model: ClassVar[type[Tool] | type[Team]]

    def find(self, name: str) -> Tool | Team:
        """Return the row of a name. Raises Missing."""
        rows: Any = self.model._default_manager
        row: Tool | Team | None = rows.filter(name=name).first()
        if row is None:
            raise Missing(self, name)
        return row


class ToolParameter(RowParameter):
    """The name of a tool. The report gets it with the capacity that is valid now."""

    model = Tool

    def find(self, name: str) -> Tool | Team:
        """Return the tool of a name. Raises Missing."""
        tool = super().find(name)
        if isinstance(tool, Tool) and tool.capacity_changes_at is not None:
            capacity.show([tool], database_now())
        return tool


class TeamParameter(RowParameter):
    """The name of a team."""

    model = Team


@dataclass(frozen=True, kw_only=True)
class Choice(Parameter):
    """One of these words."""

    among: Sequence[str]
    default: str


@dataclass(frozen=True, kw_only=True)
class Words(Parameter):
    """One or more of these words, in the order of the caller."""

    among: Sequence[str]
    default: Sequence[str]

    def read(self, text: str) -> list[str]:
        """Return words that are separated by commas, each once. Raises ValueError for another word."""
        words = text.split(",")
        if unknown := [word for word in words if word not in self.among]:
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(self.among)}.")
        return list(dict.fromkeys(words))


@dataclass(frozen=True, kw_only=True)
class Seats(Parameter):
    """Some numbers of seats, at most ``at_most``. The report gets None if the caller names none."""

    at_most: int

    def read(self, text: str) -> list[int]:
        """Return numbers that are separated by commas. Raises ValueError."""
        words = [word.strip() for word in text.split(",")]
        numbers = [int(word) for word in words if word.isascii() and word.isdigit() and len(word) <= 7]
        if len(numbers) != len(words) or len(words) > self.at_most or max(numbers) > MAX_CAPACITY:
            raise ValueError(
                f"Give at most {self.at_most} numbers of seats from 0 to {MAX_CAPACITY}, separated by commas."
            )
        return numbers


# --- What it shows ----------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of the table: its name, its kind, and how it comes from a row; by default the attribute of
    this name.

    ``when`` gets the question, and says whether the column is shown. A ``personal`` column shows what single
    people did, and a column of ``money`` a price or a cost: each needs a right. Pages show a ``share``
    as a percentage.
    """

    name: str
    kind: type[str] | type[int] | type[float] | type[date]
    help: str = ""
    value: Callable[[Any], Value] | None = None
    nullable: bool = False
    personal: bool = False
    money: bool = False
    share: bool = False
    when: Callable[[Mapping[str, Any]], bool] | None = None

    def of(self, row: Any) -> Value:
        """Return the value of this column in a row."""
        found: Value = self.value(row) if self.value else attrgetter(self.name)(row)
        return found


def key(name: str, kind: type[str] | type[date] = str, help: str = "", **options: Any) -> Column:
    """Return a column that rows can be summed by; a row has its value in ``row.key``."""
    return Column(name, kind, help, lambda row: row.key[name], **options)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a caller may ask for: rows of the table, and borrows that are replayed. None is no limit."""

    rows: int | None = None
    borrows: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The rows of a report, what ``facts`` are read from, and sentences for people about its limits."""

    rows: Sequence[Any]
    facts: Any = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A report that was asked for: its table, its other facts, and sentences for people about its limits."""

    table: Table
    facts: Mapping[str, Any]
    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report on use.

    ``name`` is its address, its command and its file. ``keys`` are the columns that ``by`` chooses from, the
    ``columns`` are always there. ``find`` gets ``span``, ``limits`` and each parameter by its name, and
    returns the rows; it raises TooLarge. ``facts`` are about the whole report. ``template`` shows it in the admin.
    """

    name: str
    title: str
    summary: str
    details: str = ""
    find: Callable[..., Found]
    parameters: Sequence[Parameter] = ()
    keys: Sequence[Column] = ()
    by: Sequence[str] = ()
    columns: Sequence[Column]
    facts: Sequence[Column] = ()
    row_name: str = ""
    # Whether it is about money as a whole, so that the API refuses it without the right to see prices.
    about_money: bool = False
    template: str = "admin/licenses/report_table.html"

    @property
    def asks(self) -> list[Parameter]:
        """Return all that the report can be asked for, except its days."""
        names = [column.name for column in self.keys]
        help = f"One or more of {', '.join(names)}, separated by commas."
        return [*([Words(name="by", help=help, among=names, default=self.by)] if names else []), *self.parameters]

    def without_people(self) -> "Report":
        """Return the report without the columns that show what single people did."""
        keys = [column for column in self.keys if not column.personal]
        names = [column.name for column in keys]
        by = [name for name in self.by if name in names] or names[:1]
        return replace(self, keys=keys, by=by, columns=[column for column in self.columns if not column.personal])

    def without_money(self) -> "Report":
        """Return the report without the columns and facts that show prices or costs."""
        columns = [column for column in self.columns if not column.money]
        return replace(self, columns=columns, facts=[fact for fact in self.facts if not fact.money])

    @property
    def component(self) -> str:
        """Return the name in CamelCase, for the schema."""
        return "".join(word.capitalize() for word in self.name.split("-"))

    def question(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a value for each parameter: the one that is given, or its default."""
        given = {name: value for name, value in values.items() if value not in (None, "", [])}
        return {ask.name: given.get(ask.name, getattr(ask, "default", None)) for ask in self.asks}

    def shown(self, question: Mapping[str, Any]) -> list[Column]:
        """Return the columns that answer a question."""
        by = question.get("by", ())
        keys = sorted((column for column in self.keys if column.name in by), key=lambda column: by.index(column.name))
        return [*keys, *(column for column in self.columns if column.when is None or column.when(question))]

    def answer(self, span: Span, question: Mapping[str, Any], limits: Limits = Limits()) -> Answer:
        """Answer a question about some days. Raises Missing or TooLarge."""
        rows_of = {asked.name: asked for asked in self.asks if isinstance(asked, RowParameter)}
        given = {
            name: rows_of[name].find(value) if name in rows_of and value is not None else value
            for name, value in question.items()
        }
        found = self.find(span=span, limits=limits, **given)
        columns = self.shown(question)
        rows = [{column.name: column.of(row) for column in columns} for row in found.rows]
        facts = {column.name: column.of(found.facts) for column in self.facts}
        return Answer(Table([column.name for column in columns], rows), facts, found.notes)
