"""Read CSV: its delimiter, decimal sign and header, and what each row becomes."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC
from typing import Any

from iot.devices import names
from iot.devices.field_map import FieldMap
from iot.devices.plan import Given, Plan
from iot.devices.plan_maker import make_plan
from iot.devices.results import Refused, Result
from iot.devices.text import BROKEN, Lines
from iot.devices.unclear import Unclear

# A comma comes last, because it may be a decimal sign.
DELIMITERS = ";\t|,"
DELIMITER_NAMES = {"\t": "tab", " ": "blanks"}
# How many lines tell the delimiter and the plan.
SAMPLE_LINES = 1_000
# How many lines may stand above the header.
MAX_PREAMBLE = 30
SEP = re.compile(r'"?sep=(.)"?\s*')
# Columns of the daily archives of Sensor.Community. Its sensor_type is the model of the chip.
SENSOR_COMMUNITY = {"sensor_id", "sensor_type", "location", "lat", "lon", "timestamp"}

Row = tuple[int, list[str]]
Numbered = tuple[int, list[Result]]


class Rows:
    """The rows of a CSV text, each with the number of its last line. A row that is no CSV is refused, not lost.

    A quote that is never closed swallows the lines after it. They are read again, without the line with the quote.
    """

    def __init__(self, lines: Lines, delimiter: str) -> None:
        self._lines = lines
        self._delimiter = delimiter
        self._reader = self._new_reader()
        self.number = 0

    def _new_reader(self) -> Any:
        return csv.reader(self._lines, delimiter=self._delimiter, skipinitialspace=True)

    def __iter__(self) -> Iterator[tuple[int, list[str] | Refused]]:
        lines = self._lines
        while True:
            lines.mark()
            try:
                cells: list[str] | Refused = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                cells = self.split() if self.has_many_lines() else Refused(f"no CSV ({error}): correct the line")
            self.number = lines.number
            yield self.number, cells

    def split(self) -> Refused:
        """Return why the first line of the last row is refused, and read its other lines again."""
        self.number = self._lines.give_back()
        self._reader = self._new_reader()
        return Refused("a quote is never closed: remove it, or write it twice")

    def has_many_lines(self) -> bool:
        """Whether the last row went over several lines."""
        return len(self._lines.taken) > 1


class Table:
    """A CSV text whose columns are recognised.

    Attributes:
        description: what was recognised as what.
    """

    def __init__(self, lines: Lines, field_map: FieldMap) -> None:
        """
        Raises:
            Unclear: it is not clear what the columns mean.
        """
        self._map = field_map
        sample = lines.peek(SAMPLE_LINES)
        sep = SEP.fullmatch(sample[0]) if sample else None
        delimiter = field_map.delimiter or (sep and sep[1]) or delimiter_of(sample)
        rows = _sample_rows(sample, delimiter)
        self._header_line, self._columns, below = self._header(rows[1:] if sep else rows)
        units = self._units(below)
        body = self._with_row_names([cells for _, cells in below if any(cells)])
        decimal = self._decimal(body)
        self.plan = self._make_plan(body, decimal, units)
        self._lines, self._rows = lines, Rows(lines, delimiter)
        name = DELIMITER_NAMES.get(delimiter, delimiter)
        where = f"header in line {self._header_line}" if self._header_line else "names of columns from the map"
        sign = "decimal comma" if decimal == "," else "decimal point"
        self.description = [("form", f"{self._form}, delimiter {name}, {sign}, {where}"), *self.plan.description()]

    def __iter__(self) -> Iterator[Numbered]:
        """Yield the number of each row, and what becomes of it."""
        width, results_of, columns, lines = len(self._columns), self.plan.results, self._columns, self._lines
        for number, cells in self._rows:
            if number <= self._header_line:
                continue
            if isinstance(cells, Refused):
                yield number, [cells]
                continue
            if len(cells) != width:
                while len(cells) > width and not cells[-1].strip():
                    cells.pop()
                if len(cells) != width:
                    if any(cells):
                        yield self._refused_width(number, cells)
                    continue
            if not any(cells) or (cells[0] in columns and [" ".join(cell.split()) for cell in cells] == columns):
                continue
            results = results_of(cells.__getitem__)
            if lines.has_broken and BROKEN in "".join(cells) and not self._has_broken_header:
                results = [Refused("a character cannot be decoded: name the encoding in a map, [csv] encoding")]
            yield number, results

    def _refused_width(self, number: int, cells: list[str]) -> Numbered:
        if self._rows.has_many_lines():
            refused = self._rows.split()
            return self._rows.number, [refused]
        return number, [Refused(self._wrong_width(cells))]

    def _wrong_width(self, cells: Sequence[str]) -> str:
        text = f"{len(cells)} columns; expected {len(self._columns)}"
        if len(cells) > len(self._columns) and self.plan.decimal == ".":
            text += ": put quotes around a text or number with the delimiter in it"
        return text

    def _header(self, rows: list[Row]) -> tuple[int, list[str], list[Row]]:
        """Return the line of the header, the names in it, and the rows below it. The line is 0 if the map has names."""
        if self._map.header:
            return 0, list(self._map.header), rows
        wanted = {column for columns in self._map.columns.values() for column in columns}
        best_at, best_score = next((at for at, (_, cells) in enumerate(rows) if any(cells)), 0), 1
        for at, (_, cells) in enumerate(rows[:MAX_PREAMBLE]):
            named = [cell.strip() for cell in cells if cell.strip()]
            score = sum(map(is_known, named)) + 3 * len(wanted & set(named))
            if score > best_score and len(named) > 1:
                best_at, best_score = at, score
        if not any(any(cells) for _, cells in rows):
            return 0, [], []
        number, cells = rows[best_at]
        columns = [" ".join(cell.split()) for cell in cells]
        columns[0] = columns[0].lstrip("#").strip()
        while columns and not columns[-1]:
            columns.pop()
        return number, _distinct(columns), rows[best_at + 1 :]

    def _units(self, below: list[Row]) -> dict[str, str]:
        """Return the units of columns if they stand in a row below the header, as some data loggers write them."""
        if not below or self._map.header:
            return {}
        number, cells = below[0]
        if len(cells) != len(self._columns) or any(re.search(r"\d", cell) for cell in cells):
            return {}
        units = {
            column: cell.strip()
            for column, cell in zip(self._columns, cells, strict=True)
            if names.measure(column) and names.is_unit(cell.strip())
        }
        if units:
            self._header_line = number
            del below[0]
        return units

    def _with_row_names(self, body: list[list[str]]) -> list[list[str]]:
        """Add an unnamed column if all rows begin with a number of the row, as R writes tables."""
        for cells in body:
            while len(cells) > len(self._columns) and not cells[-1].strip():
                cells.pop()
        if body and all(len(cells) == len(self._columns) + 1 for cells in body):
            first = [cells[0].strip() for cells in body]
            if len(set(first)) == len(first) and all(cell.isdigit() for cell in first):
                self._columns = ["", *self._columns]
        return [cells for cells in body if len(cells) == len(self._columns)]

    def _decimal(self, rows: Sequence[Sequence[str]]) -> str:
        """Return the decimal sign.

        Raises:
            Unclear: 1,234 may be about one, or a thousand.
        """
        if self._map.decimal:
            return self._map.decimal
        cells = [cell.strip() for row in rows for cell in row]
        cells = [cell for cell in cells if re.match(r"[+-]?\d+[.,]\d", cell)]
        has_comma = any(
            re.fullmatch(r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+),(?:\d{1,2}|\d{4,})\D{0,4}", cell) for cell in cells
        )
        has_point = any(re.fullmatch(r"[+-]?(?:\d+|\d{1,3}(?:,\d{3})+)\.\d+\D{0,4}", cell) for cell in cells)
        if has_comma and not has_point:
            return ","
        if has_comma and has_point:
            by_comma = sum(bool(re.fullmatch(r"[+-]?\d+,\d+", cell)) for cell in cells)
            by_point = sum(bool(re.fullmatch(r"[+-]?\d+\.\d+", cell)) for cell in cells)
            return "," if by_comma > by_point else "."
        doubtful = next((cell for cell in cells if re.fullmatch(r"[+-]?\d{1,3},\d{3}", cell)), None)
        if doubtful and not has_point:
            if re.fullmatch(r"[+-]?0\d*,\d{3}", doubtful):
                return ","
            unclear = Unclear()
            unclear.ask(f"{doubtful} may have a decimal comma", "csv", 'decimal = ","  # or "."')
            raise unclear
        return "."

    def _make_plan(self, rows: list[list[str]], decimal: str, units: dict[str, str]) -> Plan:
        given = Given()
        field_map = self._map
        self._form = "CSV"
        columns = self._columns
        self._has_broken_header = any(BROKEN in column for column in columns)
        if set(columns) >= SENSOR_COMMUNITY and "value" not in columns:
            self._form = "CSV of Sensor.Community"
            given = Given(zone=UTC, zone_reason=", as Sensor.Community writes it", units=(("pressure", "Pa"),))
            ignored = {"sensor_type", "lat", "lon", "altitude", "pressure_sealevel"} & set(columns)
            field_map = replace(field_map, ignore=field_map.ignore | ignored)
        samples = rows
        if not any(map(is_known, columns)) and not self._map.columns:
            unclear = Unclear()
            unclear.ask(
                f"the first line names no column that is known ({', '.join(columns[:8]) or 'it is empty'})",
                "csv",
                f"# header = [{', '.join(chr(34) + '…' + chr(34) for _ in columns)}]  # if the file has no header",
            )
            try:
                make_plan(columns, samples, field_map, given, decimal=decimal)
            except Unclear as others:
                unclear.texts += others.texts
                unclear.lines |= others.lines
            raise unclear
        return make_plan(columns, samples, field_map, given, decimal=decimal, column_units=units)


def _sample_rows(lines: Sequence[str], delimiter: str) -> list[Row]:
    """Return the rows of some lines that are CSV."""
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    rows = []
    while True:
        try:
            rows.append((reader.line_num, next(reader)))
        except StopIteration:
            return [(number + 1, cells) for number, cells in rows]
        except csv.Error:
            continue


def delimiter_of(lines: Sequence[str]) -> str:
    """Return the delimiter that gives most known names in one line, or else the most columns in all lines."""
    best, best_score = ",", (0.0, 0.0)
    for delimiter in DELIMITERS:
        rows = []
        try:
            rows = list(csv.reader(lines[:100], delimiter=delimiter, skipinitialspace=True))
        except csv.Error:
            continue
        known = max((sum(map(is_known, row)) for row in rows[:MAX_PREAMBLE] if len(row) > 1), default=0)
        widths = Counter(len(row) for row in rows if row)
        width, count = widths.most_common(1)[0] if widths else (1, 0)
        even = count / max(1, sum(widths.values())) if width > 1 else 0.0
        if (score := (float(known), even)) > best_score:
            best, best_score = delimiter, score
    return best


def is_known(name: str) -> bool:
    """Whether a cell is the name of a column that is understood."""
    if not name.strip() or len(name) > 80:
        return False
    plain = names.plain(name)
    return (
        names.measure(name) is not None
        or names.is_time(name)
        or plain in names.SENSOR_NAMES
        or plain in names.TYPE_NAMES
        or plain in names.VALUE_NAMES
        or plain in names.LOCATION_NAMES
    )


def _distinct(columns: list[str]) -> list[str]:
    """Give a number to a name that is there twice."""
    seen: Counter[str] = Counter()
    made = []
    for column in columns:
        seen[column] += 1
        made.append(f"{column} ({seen[column]})" if column and seen[column] > 1 else column)
    return made
