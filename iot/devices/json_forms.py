"""The forms of JSON that are recognised: one table, ``FORMS``. Each form turns an object into points.

The forms look at the shape of an object, and at the MQTT topic if there is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import Any, NamedTuple

import msgspec

from iot.devices import names
from iot.devices.influx import INFLUXQL, influxql_points
from iot.devices.plan import Given
from iot.devices.points import Point, flat
from iot.devices.results import Refused
from iot.devices.times import has_offset

Object = dict[str, Any]
Points = Iterator[Point | Refused]

# Keys of an object that only wraps others.
WRAPPERS = ("result", "data", "readings", "results", "measurements", "records", "items", "feeds", "messages", "values")
# Endings of MQTT topics that carry no measurements.
SILENT_TOPICS = re.compile(r"(?:^|/)(?:availability|LWT|set|get|bridge/.*|INFO\d*|RESULT|UPTIME)$")
TASMOTA_TOPIC = re.compile(r"(?:^|/)(?:SENSOR|STATUS\d*|STATE)$")
# Components of a Shelly that measure: the kind, its value, and the field of a reading.
SHELLY_VALUES = {
    "temperature": ("tC", "temperature (°C)"),
    "humidity": ("rh", "humidity (%)"),
    "illuminance": ("lux", "light (lx)"),
}
_SHELLY_COMPONENT = re.compile(rf"({'|'.join(SHELLY_VALUES)}):(\d{{1,9}})")
_SHELLY_TOPIC = re.compile(rf"(?P<device>.+)/status/(?P<component>{_SHELLY_COMPONENT.pattern})")


@dataclass
class Context:
    """Facts about an object that are not in its content.

    Attributes:
        topic: the MQTT topic, if it came by MQTT.
        device: the name of the device that sent it, for example that of its token.
        time_us: the moment of receipt; None in files.
        memory: what earlier objects of the same list said, for forms that say things once.
    """

    topic: str | None = None
    device: str | None = None
    time_us: int | None = None
    memory: Object = field(default_factory=dict)

    def given(self, sensor_id: str | None = None, **more: Any) -> Given:
        """Return what is known, with this device."""
        return Given(sensor_id or self.device, self.time_us, noun="field", **more)


class JsonForm(NamedTuple):
    """A form of objects: its name, whether an object has it, and the points in it."""

    name: str
    is_of: Callable[[Object, Context], bool]
    points: Callable[[Object, Context], Points]


def points_of(content: Object, context: Context) -> Points:
    """Yield the points of an object, in the first form that fits."""
    form = next(form for form in FORMS if form.is_of(content, context))
    yield from form.points(content, context)


def device_of_topic(topic: str) -> str:
    """Return the device that a topic names: without the prefix and the ending of Tasmota and Zigbee2MQTT."""
    parts = [part for part in topic.split("/") if part]
    if TASMOTA_TOPIC.search(topic):
        parts = [part for part in parts[:-1] if part not in ("tele", "stat", "cmnd")]
    elif len(parts) > 1 and parts[0] == "zigbee2mqtt":
        parts = parts[1:]
    return "/".join(parts)


def _is_silent(content: Object, context: Context) -> bool:
    return bool(context.topic and SILENT_TOPICS.search(context.topic))


def _silent(content: Object, context: Context) -> Points:
    yield Refused(f"messages of {context.topic} hold no measurements", is_other=True)


def _is_things_stack(content: Object, context: Context) -> bool:
    return "end_device_ids" in content or isinstance(content.get("uplink_message"), dict)


def _things_stack(content: Object, context: Context) -> Points:
    uplink = content.get("uplink_message")
    if not isinstance(uplink, dict):
        yield Refused("the message is no uplink", is_other=True)
        return
    ids = content.get("end_device_ids")
    device = ids.get("device_id") or ids.get("dev_eui") if isinstance(ids, dict) else None
    payload = uplink.get("decoded_payload")
    if not isinstance(payload, dict):
        yield Refused("no decoded_payload: give the device a payload formatter in The Things Stack", is_missing=True)
        return
    time = uplink.get("received_at") or content.get("received_at")
    yield Point("The Things Stack", flat(payload), context.given(_name(device)), time)


def _is_things_network(content: Object, context: Context) -> bool:
    return "dev_id" in content and isinstance(content.get("payload_fields"), dict)


def _things_network(content: Object, context: Context) -> Points:
    metadata = content.get("metadata")
    time = metadata.get("time") if isinstance(metadata, dict) else None
    device = context.given(_name(content["dev_id"]))
    yield Point("The Things Network v2", flat(content["payload_fields"]), device, time)


def _is_thingsboard(content: Object, context: Context) -> bool:
    return "ts" in content and isinstance(content.get("values"), dict)


def _thingsboard(content: Object, context: Context) -> Points:
    rest = {name: value for name, value in content.items() if name not in ("ts", "values") and isinstance(value, str)}
    found = names.first_of(list(rest), names.SENSOR_NAMES)
    device = context.device or (rest[found] if found else None) or _topic_device(content["values"], context)
    given = replace(context.given(), sensor_id=device)
    yield Point("ThingsBoard", flat(content["values"]), given, content["ts"])


def _is_thingsboard_gateway(content: Object, context: Context) -> bool:
    return bool(content) and all(
        isinstance(rows, list) and rows and all(isinstance(row, dict) and _is_telemetry(row) for row in rows)
        for rows in content.values()
    )


def _is_telemetry(row: Object) -> bool:
    return isinstance(row.get("values"), dict) and set(row) <= {"ts", "values"}


def _thingsboard_gateway(content: Object, context: Context) -> Points:
    for device, rows in content.items():
        for row in rows:
            yield Point(
                "ThingsBoard gateway", flat(row["values"]), replace(context.given(), sensor_id=device), row.get("ts")
            )


def _is_thingsboard_export(content: Object, context: Context) -> bool:
    return bool(content) and all(
        isinstance(rows, list) and rows and all(isinstance(row, dict) and set(row) == {"ts", "value"} for row in rows)
        for rows in content.values()
    )


def _thingsboard_export(content: Object, context: Context) -> Points:
    for name, rows in content.items():
        for row in rows:
            yield Point("ThingsBoard time series", {name: row["value"]}, context.given(), row["ts"])


def _is_home_assistant(content: Object, context: Context) -> bool:
    if "state" not in content or not ("last_changed" in content or "last_updated" in content):
        return False
    return isinstance(content.get("entity_id") or context.memory.get("entity_id"), str)


def _home_assistant(content: Object, context: Context) -> Points:
    """Yield the point of a state. In a short history only the first state of an entity names it."""
    if isinstance(entity_id := content.get("entity_id"), str):
        context.memory.update(entity_id=entity_id, attributes={})
    if isinstance(content.get("attributes"), dict):
        context.memory["attributes"] = content["attributes"]
    time = content.get("last_changed") or content.get("last_updated")
    yield entity_point(context.memory["entity_id"], content["state"], time, context.memory["attributes"], context)


def _is_home_assistant_history(content: Object, context: Context) -> bool:
    return bool(content) and all(
        re.fullmatch(r"[a-z_]+\.[a-z0-9_]+", name)
        and isinstance(rows, list)
        and all(isinstance(row, dict) and ("s" in row or "state" in row) for row in rows)
        for name, rows in content.items()
    )


def _home_assistant_history(content: Object, context: Context) -> Points:
    for entity_id, rows in content.items():
        attributes: Object = {}
        for row in rows:
            found = row.get("a", row.get("attributes"))
            attributes |= found if isinstance(found, dict) else {}
            time = row.get("lc") or row.get("lu") or row.get("last_changed") or row.get("last_updated")
            yield entity_point(entity_id, row.get("s", row.get("state")), time, attributes, context)


def entity_point(entity_id: str, state: Any, time: Any, attributes: Object, context: Context) -> Point | Refused:
    """Return the point of a state of Home Assistant. Attributes name type and unit, else the entity's name the type."""
    sensor_type = names.DEVICE_CLASSES.get(str(attributes.get("device_class")))
    measured = names.entity_measure(entity_id) if not attributes.get("device_class") else None
    if measured:
        sensor_type = measured.sensor_type
    unit = attributes.get("unit_of_measurement") or (measured.unit if measured else None)
    if sensor_type is None:
        return Refused(f"{entity_id} names no known type", is_other=True)
    if time is None and context.time_us is None:
        return Refused("last_changed has no value: the state has no time")
    name = f"{sensor_type} ({unit})" if isinstance(unit, str) and sensor_type != "motion" else sensor_type
    return Point("Home Assistant history", {name: state}, context.given(entity_id), time)


def _is_sensor_community(content: Object, context: Context) -> bool:
    return isinstance(content.get("sensordatavalues"), list) and isinstance(content.get("sensor"), dict)


def _sensor_community(content: Object, context: Context) -> Points:
    fields = {
        str(each.get("value_type")): each.get("value")
        for each in content["sensordatavalues"]
        if isinstance(each, dict) and each.get("value_type") != "pressure_at_sealevel"
    }
    place = content.get("location")
    where = str(place["id"]) if isinstance(place, dict) and "id" in place else None
    given = context.given(_name(content["sensor"].get("id")), location=where, zone=UTC, units=(("pressure", "Pa"),))
    yield Point("Sensor.Community", fields, given, content.get("timestamp"))


def _is_tasmota(content: Object, context: Context) -> bool:
    if isinstance(content.get("StatusSNS"), dict):
        return True
    has_chip = any(isinstance(value, dict) for value in content.values())
    is_topic = bool(context.topic and TASMOTA_TOPIC.search(context.topic))
    return is_topic or ("Time" in content and (has_chip or "TempUnit" in content))


def _tasmota(content: Object, context: Context) -> Points:
    inner = content.get("StatusSNS")
    content = inner if isinstance(inner, dict) else content
    units = tuple(
        (sensor_type, content[name])
        for sensor_type, name in (("temperature", "TempUnit"), ("pressure", "PressureUnit"))
        if isinstance(content.get(name), str)
    )
    device = device_of_topic(context.topic) if context.topic else None
    fields = {name: value for name, value in content.items() if name not in ("Time", "TempUnit", "PressureUnit")}
    time = content.get("Time")
    if context.time_us is not None and not has_offset(time):
        # The clock of a device that sends now says no zone: the moment of receipt is known better.
        time = None
    yield Point("Tasmota", flat(fields), context.given(device, units=units), time)


def _is_zigbee2mqtt(content: Object, context: Context) -> bool:
    return "linkquality" in content or bool(context.topic and context.topic.startswith("zigbee2mqtt/"))


def _zigbee2mqtt(content: Object, context: Context) -> Points:
    named = content.get("device")
    device = device_of_topic(context.topic) if context.topic else None
    if device is None and isinstance(named, dict):
        device = named.get("friendlyName") or named.get("friendly_name") or named.get("ieeeAddr")
    fields = {name: value for name, value in content.items() if name not in ("device", "last_seen")}
    given = context.given(_name(device))
    if given.sensor_id is None:
        fields = {name: value for name, value in content.items() if name != "last_seen"}
    yield Point("Zigbee2MQTT", flat(fields), given, content.get("last_seen"))


def _is_shelly(content: Object, context: Context) -> bool:
    return str(content.get("method")).startswith("Notify") and isinstance(content.get("params"), dict)


def _shelly(content: Object, context: Context) -> Points:
    """Yield the points of a notification: https://shelly-api-docs.shelly.cloud/gen2/General/Notifications."""
    status = content["params"]
    yield from _shelly_components(status, _name(content.get("src")), status.get("ts"), context)


def _is_shelly_component(content: Object, context: Context) -> bool:
    return bool(context.topic and _SHELLY_TOPIC.fullmatch(context.topic))


def _shelly_component(content: Object, context: Context) -> Points:
    found = _SHELLY_TOPIC.fullmatch(context.topic or "")
    assert found
    yield from _shelly_components({found["component"]: content}, device_of_topic(found["device"]), None, context)


def _shelly_components(status: Object, device: str | None, time: Any, context: Context) -> Points:
    """Yield a point for each number of components; those with the number 0 are the device itself."""
    found: dict[str, Object] = {}
    for name, component in status.items():
        if (kind := _SHELLY_COMPONENT.fullmatch(name)) and isinstance(component, dict):
            key, field_name = SHELLY_VALUES[kind[1]]
            if key in component:
                found.setdefault(kind[2], {})[field_name] = component[key]
    if not found:
        yield Refused("the notification holds no temperature, humidity or illuminance", is_other=True)
    device = context.device or device
    for number, fields in found.items():
        sensor_id = device if number == "0" or device is None else f"{device}:{number}"
        yield Point("Shelly", fields, replace(context.given(), sensor_id=sensor_id), time)


def _is_influxql(content: Object, context: Context) -> bool:
    series = content.get("series")
    return isinstance(series, list) and any(isinstance(each, dict) and "columns" in each for each in series)


def _influxql(content: Object, context: Context) -> Points:
    yield from influxql_points(content["series"], context.given())


def _is_message(content: Object, context: Context) -> bool:
    return isinstance(content.get("topic"), str) and isinstance(content.get("payload"), (dict, str, int, float))


def _message(content: Object, context: Context) -> Points:
    """Yield the points of an MQTT message that was written to a file, for example by ``mosquitto_sub -F %J``."""
    topic, payload = content["topic"], content["payload"]
    time = content.get("tst") or content.get("timestamp") or content.get("ts") or content.get("time")
    if isinstance(payload, str):
        try:
            payload = msgspec.json.decode(payload)
        except (msgspec.DecodeError, RecursionError):
            yield Refused(f"the payload of {topic} is not JSON", is_other=True)
            return
    inner = replace(context, topic=topic)
    made = points_of(payload, inner) if isinstance(payload, dict) else scalar_points(topic, payload, inner)
    for point in made:
        if isinstance(point, Point) and point.time is None and time is not None:
            point.time = None if names.first_of(list(point.fields), names.TIME_NAMES) else time
        yield point


def scalar_points(topic: str, value: Any, context: Context) -> Points:
    """Yield the point of a single value whose topic names the type, such as home/kitchen/temperature."""
    parts = [part for part in topic.split("/") if part]
    while parts and parts[-1] in ("state", "value"):
        parts.pop()
    device, name = "/".join(parts[:-1]), "".join(parts[-1:])
    if isinstance(value, (dict, list)) or names.measure(name) is None or not device:
        yield Refused(f"neither the payload nor the topic {topic} names a known type", is_other=True)
        return
    yield Point("value of a topic", {name: value}, context.given(device_of_topic(device)))


def _is_wrapper(content: Object, context: Context) -> bool:
    return _wrapped(content) is not None


def _wrapped(content: Object) -> Any:
    for name in WRAPPERS:
        inner = content.get(name)
        if isinstance(inner, list) and inner and all(isinstance(each, dict) for each in inner):
            return inner
        if isinstance(inner, dict) and len(content) == 1:
            return [inner]
    return None


def _wrapper(content: Object, context: Context) -> Points:
    rest = {name: value for name, value in content.items() if isinstance(value, (str, int, float))}
    found = names.first_of(list(rest), names.SENSOR_NAMES)
    if found and context.device is None:
        context = replace(context, device=str(rest[found]))
    for inner in _wrapped(content):
        yield from points_of(inner, context)


def _wide(content: Object, context: Context) -> Points:
    fields = flat(content)
    device = context.device or _topic_device(fields, context)
    yield Point("fields", fields, replace(context.given(), sensor_id=device))


def _topic_device(fields: Object, context: Context) -> str | None:
    """Return the device that the topic names, unless a field names it."""
    if context.topic is None or context.topic == "v1/devices/me/telemetry":
        return None
    return None if names.first_of(list(fields), names.SENSOR_NAMES) else device_of_topic(context.topic)


def _name(value: Any) -> str | None:
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "" else None


# In the order in which they are tried. The last one takes any object.
FORMS = (
    JsonForm("silent topics", _is_silent, _silent),
    JsonForm("MQTT messages", _is_message, _message),
    JsonForm("The Things Stack", _is_things_stack, _things_stack),
    JsonForm("The Things Network v2", _is_things_network, _things_network),
    JsonForm("ThingsBoard", _is_thingsboard, _thingsboard),
    JsonForm("ThingsBoard gateway", _is_thingsboard_gateway, _thingsboard_gateway),
    JsonForm("ThingsBoard time series", _is_thingsboard_export, _thingsboard_export),
    JsonForm("Home Assistant history", _is_home_assistant, _home_assistant),
    JsonForm("Home Assistant history", _is_home_assistant_history, _home_assistant_history),
    JsonForm("Sensor.Community", _is_sensor_community, _sensor_community),
    JsonForm("Tasmota", _is_tasmota, _tasmota),
    JsonForm("Zigbee2MQTT", _is_zigbee2mqtt, _zigbee2mqtt),
    JsonForm("Shelly", _is_shelly, _shelly),
    JsonForm("Shelly", _is_shelly_component, _shelly_component),
    JsonForm(INFLUXQL, _is_influxql, _influxql),
    JsonForm("wrapped objects", _is_wrapper, _wrapper),
    JsonForm("fields", lambda content, context: True, _wide),
)
