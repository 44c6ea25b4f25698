"""A point: the fields that one device measured at one time, as the forms of JSON and InfluxDB have them.

``Interpreter`` turns points into readings. It makes a plan for each set of fields that it meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from iot.devices.field_map import FieldMap
from iot.devices.plan import Given, Plan
from iot.devices.plan_maker import make_plan
from iot.devices.results import Refused, Result, Timed
from iot.devices.unclear import Unclear

# Maximum number of plans that are kept.
MAX_PLANS = 1_000
# How many temperatures without a unit are looked at.
MAX_WARM = 1_000
# Name of the field that holds a time that the form names.
TIME = "time of the message"


@dataclass
class Point:
    """The fields that one device measured at one time.

    Attributes:
        form: the name of the form, for people.
        fields: the fields, nested ones with a dot between the names.
        given: what the form says besides.
        time: the timestamp, if the form names it; else a field may.
        tags: texts that say which device it is; only a map uses them by their names.
    """

    form: str
    fields: dict[str, Any]
    given: Given
    time: Any = None
    tags: dict[str, str] = field(default_factory=dict)


class Interpreter:
    """Turns points into readings.

    Attributes:
        left_out: names of fields that were not used, of all points since it was last emptied.
        warm: temperatures without a unit, of the first points.
    """

    def __init__(self, field_map: FieldMap) -> None:
        self._map = field_map
        self._plans: dict[tuple[Any, ...], Plan | Unclear] = {}
        self.left_out: dict[str, None] = {}
        self.warm: list[float] = []

    def results(self, point: Point) -> list[Result]:
        """Return the readings of a point, and what is refused."""
        fields = self._fields(point)
        # The device's name and the moment of receipt are not part of a plan, only whether they are known.
        given = point.given
        key = (point.form, given.sensor_id is None, given.time_us is None, given.zone, given.units, *fields)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            try:
                plan = self.plan(point)
            except Unclear as unclear:
                plan = unclear
            self._plans[key] = plan
        if isinstance(plan, Unclear):
            if plan.has_no_type:
                self.left_out |= dict.fromkeys(fields)
                return [Refused("no field names a known type", is_other=True)]
            return [Refused(str(plan), is_in_doubt=True)]
        if plan.unused:
            self.left_out |= dict.fromkeys(plan.unused)
        results = plan.results(fields.get, given)
        if len(self.warm) < MAX_WARM:
            self._note_warm(plan, results)
        return results

    def plan(self, point: Point, samples: Sequence[Point] = ()) -> Plan:
        """Return the plan for a point. Samples are only for what it says of itself.

        Raises:
            Unclear: there is none.
        """
        fields = self._fields(point)
        columns = {}
        for name, mapped in self._map.columns.items():
            # An object need not have all the fields that the map names.
            if present := tuple(column for column in mapped if column in fields):
                columns[name] = present
        constants = dict(self._map.constants)
        if point.time is not None and "timestamp" not in columns:
            columns["timestamp"] = (TIME,)
        if point.given.sensor_id is not None and "sensor_id" not in columns:
            constants.setdefault("sensor_id", point.given.sensor_id)
        field_map = replace(self._map, columns=columns, constants=constants)
        rows = [
            [found.get(name) for name in fields]
            for each in samples
            if each.form == point.form and (found := self._fields(each))
        ]
        plan = make_plan(list(fields), rows, field_map, point.given, list(fields), self._map.decimal or ".")
        plan.sensor_constant = self._map.constants.get("sensor_id", "")
        return plan

    def _fields(self, point: Point) -> dict[str, Any]:
        fields = point.tags | point.fields if self._map.columns else point.fields
        return fields if point.time is None else fields | {TIME: point.time}

    def _note_warm(self, plan: Plan, results: Sequence[Result]) -> None:
        for (_, quantity), result in zip(plan.measures, results, strict=False):
            is_without_unit = quantity.sensor_type == "temperature" and quantity.unit is None
            if is_without_unit and not quantity.is_assured and isinstance(result, Timed):
                self.warm.append(result.message.value)


def flat(fields: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Return nested fields as one level, with dots between the names. Lists are left out."""
    made: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            inner = {key.lower(): each for key, each in value.items() if isinstance(key, str)}
            if "value" in inner and set(inner) <= {"value", "unit", "units", "timestamp", "ts"}:
                unit = inner.get("unit") or inner.get("units")
                key = f"{prefix}{name} ({unit})" if isinstance(unit, str) and unit else f"{prefix}{name}"
                made[key] = inner["value"]
            elif depth < 5:
                made |= flat(value, f"{prefix}{name}.", depth + 1)
        elif not isinstance(value, list):
            made[f"{prefix}{name}"] = value
    return made
