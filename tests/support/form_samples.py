"""Small samples of every form: the content, the readings in it, and what of it is refused.

A reading is (sensor_id, sensor_type, value, unit, timestamp, location). The local time zone is Europe/Berlin.
"""

from __future__ import annotations

from typing import NamedTuple

Expected = tuple[str, str, float, str, str, str]


class Sample(NamedTuple):
    """A file, its readings, and the beginning of each refusal."""

    content: str
    readings: list[Expected]
    refused: list[str] = []  # noqa: RUF012
    map: str = ""


def _celsius(sensor_id: str, value: float, time: str, location: str = "unknown") -> Expected:
    return (sensor_id, "temperature", value, "celsius", time, location)


def _percent(sensor_id: str, value: float, time: str, location: str = "unknown") -> Expected:
    return (sensor_id, "humidity", value, "percent", time, location)


def _hpa(sensor_id: str, value: float, time: str, location: str = "unknown") -> Expected:
    return (sensor_id, "pressure", value, "hPa", time, location)


def _motion(sensor_id: str, value: float, time: str) -> Expected:
    return (sensor_id, "motion", value, "boolean", time, "unknown")


def _lux(sensor_id: str, value: float, time: str) -> Expected:
    return (sensor_id, "light", value, "lux", time, "unknown")


# 10:00 UTC, as most samples have it.
TEN = "2024-01-15T10:00:00.000000+00:00"

SAMPLES = {
    "our schema as a JSON array": Sample(
        '[{"sensor_id":"a","sensor_type":"temperature","value":20.5,"timestamp":"2024-01-15T10:00:00Z"},\n'
        '{"sensor_id":"a","sensor_type":"pressure","value":101325,"unit":"Pa","timestamp":"2024-01-15 10:00:00Z"},\n'
        '{"sensor_id":"a","sensor_type":"pressure","value":101.325,"unit":"kPa","timestamp":1705312800000},\n'
        '{"sensor_id":"a","sensor_type":"humidity","value":"45","timestamp":"2024-01-15T10:00:00Z"},\n'
        '{"sensor_id":"a","sensor_type":"humidity","value":45,"timestamp":"15/02/2024 10:00"},\n'
        '{"sensor_id":"a","sensor_type":"pm25","value":7,"unit":"µg/m³","timestamp":"2024-01-15T10:00:00Z"}]',
        [
            _celsius("a", 20.5, TEN),
            _hpa("a", 1013.25, TEN),
            _hpa("a", 1013.25, TEN),
            ("a", "pm25", 7, "µg/m³", TEN, "unknown"),
        ],
        ["line 4: value: expected `float`, got `str`", "line 5: timestamp: '15/02/2024 10:00' may have the day"],
    ),
    "our schema as CSV with units": Sample(
        "sensor_id,sensor_type,value,unit,timestamp,location,quality,run_id,sequence\n"
        "a,temperature,68,°F,2024-01-15T10:00:00Z,attic,good,r,7\n"
        "a,pressure,29.92,inHg,2024-01-15T10:00:00Z,,,,\n"
        "a,pressure,3,furlong,2024-01-15T10:00:00Z,,,,\n"
        "a,temperature,20,celsius,2024-01-15T10:00:00Z,,,,x\n",
        [
            _celsius("a", 20, TEN, "attic"),
            _hpa("a", 1013.207489067, TEN),
            ("a", "pressure", 3, "furlong", TEN, "unknown"),
        ],
        ["line 5: sequence: 'x' is not a whole number"],
    ),
    "environmental telemetry with booleans": Sample(
        '"ts","device","co","humidity","light","lpg","motion","smoke","temp"\n'
        '"1.5945120943859746E9","b8:27","0.0049","51.0","false","0.0076","false","0.0204","22.7"\n'
        '"1.5945120947355676E9","00:0f","0.0028","76.0","false","0.0051","true","0.0132","19.7"\n',
        [
            _percent("b8:27", 51, "2020-07-12T00:01:34.385975+00:00"),
            _motion("b8:27", 0, "2020-07-12T00:01:34.385975+00:00"),
            _celsius("b8:27", 22.7, "2020-07-12T00:01:34.385975+00:00"),
            _percent("00:0f", 76, "2020-07-12T00:01:34.735568+00:00"),
            _motion("00:0f", 1, "2020-07-12T00:01:34.735568+00:00"),
            _celsius("00:0f", 19.7, "2020-07-12T00:01:34.735568+00:00"),
        ],
    ),
    "Sensor.Community with pressure in Pa": Sample(
        "sensor_id;sensor_type;location;lat;lon;timestamp;pressure;altitude;pressure_sealevel;temperature;humidity\n"
        "1093;BME280;535;48.746;9.211;2017-03-31T00:00:47;96913.02;;;12.75;63.35\n"
        "1093;BME280;535;48.746;9.211;2017-03-31T00:02:47.053188+00:00;;;;12.75;\n"
        "1093;BME280;535;48.746;9.211;2017-03-31T00:04:47;;;;;\n",
        [
            _hpa("1093", 969.1302, "2017-03-31T00:00:47.000000+00:00", "535"),
            _celsius("1093", 12.75, "2017-03-31T00:00:47.000000+00:00", "535"),
            _percent("1093", 63.35, "2017-03-31T00:00:47.000000+00:00", "535"),
            _celsius("1093", 12.75, "2017-03-31T00:02:47.053188+00:00", "535"),
        ],
        [
            "line 3: pressure has no value",
            "line 3: humidity has no value",
            "line 4: no value in pressure, temperature, humidity",
        ],
    ),
    "Sensor.Community by its API": Sample(
        '[{"id":1,"sensor":{"id":92,"sensor_type":{"name":"BME280"}},"timestamp":"2024-01-15 10:00:00","location":'
        '{"id":42,"latitude":"48.8"},"sensordatavalues":[{"value_type":"temperature","value":"12.30"},'
        '{"value_type":"pressure","value":"96913.02"},{"value_type":"pressure_at_sealevel","value":"101000"}]}]',
        [_celsius("92", 12.3, TEN, "42"), _hpa("92", 969.1302, TEN, "42")],
    ),
    "Home Assistant CSV": Sample(
        "entity_id,state,last_changed\n"
        "sensor.living_room_temperature,21.5,2024-01-15T10:00:00.000Z\n"
        "sensor.living_room_temperature,unavailable,2024-01-15T10:05:00.000Z\n"
        "sensor.living_room_humidity_2,45,2024-01-15T10:00:00.000Z\n"
        "sensor.battery_voltage,13.2,2024-01-15T10:05:00.000Z\n"
        "binary_sensor.hall_motion,on,2024-01-15T10:00:00.000Z\n"
        "sensor.outdoor_dew_point_temperature,5.0,2024-01-15T10:06:00Z\n",
        [
            _celsius("sensor.living_room_temperature", 21.5, TEN),
            _percent("sensor.living_room_humidity_2", 45, TEN),
            _motion("binary_sensor.hall_motion", 1, TEN),
        ],
        [
            "line 3: temperature has no value",
            "line 5: sensor.battery_voltage names no known type",
            "line 7: sensor.outdoor_dew_point_temperature names no known type",
        ],
    ),
    "Home Assistant history of the REST API": Sample(
        '[[{"entity_id":"sensor.home","state":"68","attributes":{"device_class":"temperature","unit_of_measurement":'
        '"°F"},"last_changed":"2024-01-15T10:00:00+00:00","last_updated":"2024-01-15T10:09:00+00:00"},'
        '{"state":"69.8","last_changed":"2024-01-15T10:00:00+00:00"}],[{"entity_id":"binary_sensor.door","state":"on",'
        '"attributes":{"device_class":"door"},"last_changed":"2024-01-15T10:00:00+00:00"}]]',
        [_celsius("sensor.home", 20, TEN), _celsius("sensor.home", 21, TEN)],
        ["line 1: binary_sensor.door names no known type"],
    ),
    "Home Assistant history of the web page": Sample(
        '{"sensor.bedroom_temperature":[{"s":"20.1","a":{"unit_of_measurement":"°C","device_class":"temperature"},'
        '"lu":1705312800.0},{"s":"unknown","lu":1705312860.0}]}',
        [_celsius("sensor.bedroom_temperature", 20.1, TEN)],
        ["line 1: temperature (°C) has no value"],
    ),
    "ThingsBoard": Sample(
        '[{"ts": 1705312800000, "values": {"temperature": 42, "humidity": "73", "firmware": "1.2"}},\n'
        ' {"ts": 1705312800000, "values": {"temperature": "21.5"}}]',
        [_celsius("boiler", 42, TEN), _percent("boiler", 73, TEN), _celsius("boiler", 21.5, TEN)],
        map='[constants]\nsensor_id = "boiler"\n',
    ),
    "ThingsBoard gateway": Sample(
        '{"Device A":[{"ts":1705312800000,"values":{"temperature":42,"humidity":80}}],'
        '"Device B":[{"ts":1705312800000,"values":{"temperature":21}}]}',
        [_celsius("Device A", 42, TEN), _percent("Device A", 80, TEN), _celsius("Device B", 21, TEN)],
    ),
    "ThingsBoard export of time series": Sample(
        '{"temperature":[{"ts":1705312800000,"value":"21.5"}],"humidity":[{"ts":1705312800000,"value":"45"}]}',
        [_celsius("boiler", 21.5, TEN), _percent("boiler", 45, TEN)],
        map='[constants]\nsensor_id = "boiler"\n',
    ),
    "The Things Stack with two probes": Sample(
        '{"end_device_ids":{"device_id":"dragino"},"uplink_message":{"decoded_payload":{"TempC_SHT":21.5,"TempC_DS":'
        '18.2,"Hum_SHT":45.2,"BatV":3.05},"received_at":"2024-01-15T10:00:00.000000789Z"}}\n'
        '{"end_device_ids":{"device_id":"d2"},"join_accept":{"session_key_id":"x"}}\n'
        '{"end_device_ids":{"device_id":"d3"},"uplink_message":{"frm_payload":"AA==","received_at":"2024-01-15T10:00:00Z"}}\n',
        [
            _celsius("dragino TempC_SHT", 21.5, TEN),
            _celsius("dragino TempC_DS", 18.2, TEN),
            _percent("dragino", 45.2, TEN),
        ],
        ["line 2: the message is no uplink", "line 3: no decoded_payload"],
    ),
    "The Things Network v2": Sample(
        '{"app_id":"a","dev_id":"node","payload_fields":{"temperature_1":21.5,"relative_humidity_2":45,'
        '"barometric_pressure_3":1013.2,"luminosity_4":77},"metadata":{"time":"2024-01-15T10:00:00Z"}}',
        [_celsius("node", 21.5, TEN), _percent("node", 45, TEN), _hpa("node", 1013.2, TEN), _lux("node", 77, TEN)],
    ),
    "Zigbee2MQTT by mosquitto_sub -v": Sample(
        'zigbee2mqtt/living room {"battery":100,"humidity":44.72,"linkquality":120,"pressure":1002,"temperature":21.34,'
        '"last_seen":"2024-01-15T11:00:00+01:00"}\n'
        'zigbee2mqtt/hall/motion {"illuminance":16994,"illuminance_lux":49,"linkquality":18,"occupancy":true,'
        '"device_temperature":31,"last_seen":1705312800000}\n'
        'zigbee2mqtt/bridge/state {"state":"online"}\n',
        [
            _percent("living room", 44.72, TEN),
            _hpa("living room", 1002, TEN),
            _celsius("living room", 21.34, TEN),
            _lux("hall/motion", 49, TEN),
            _motion("hall/motion", 1, TEN),
        ],
        ["line 3: messages of zigbee2mqtt/bridge/state hold no measurements"],
    ),
    "Zigbee2MQTT log": Sample(
        "[2024-01-15 11:00:00] info: \tz2m: Starting Zigbee2MQTT version 1.35.1\n"
        "[2024-01-15 11:00:00] info: \tz2m:mqtt: MQTT publish: topic 'zigbee2mqtt/living room', payload "
        """'{"battery":97,"humidity":44.7,"linkquality":97,"temperature":21.3}'\n"""
        "zigbee2mqtt:info  2024-01-15 11:00:00: MQTT publish: topic 'zigbee2mqtt/bridge/state', payload 'online'\n"
        "zigbee2mqtt:info  2024-01-15T11:00:00: MQTT publish: topic 'zigbee2mqtt/attic', payload "
        """'{"temperature":18.2,"linkquality":5,"update":{"state":"idle"}}'\n""",
        [_percent("living room", 44.7, TEN), _celsius("living room", 21.3, TEN), _celsius("attic", 18.2, TEN)],
        ["line 3: the payload of zigbee2mqtt/bridge/state is not JSON"],
    ),
    "Tasmota without a topic": Sample(
        '{"Time":"2024-01-15T11:00:00","AM2301":{"Temperature":21.5,"Humidity":45},"TempUnit":"C"}\n',
        [_celsius("plug", 21.5, TEN), _percent("plug", 45, TEN)],
        map='[constants]\nsensor_id = "plug"\n',
    ),
    "Tasmota by mosquitto_sub -v": Sample(
        'tele/tasmota_ABC/SENSOR {"Time":"2024-01-15T11:00:00","BME280":{"Temperature":77.0,"Humidity":65.5,"DewPoint":'
        '60.1,"Pressure":753.3},"PressureUnit":"mmHg","TempUnit":"F"}\n'
        'tele/tasmota_ABC/SENSOR {"Time":"2024-01-15T11:00:00","DS18B20-1":{"Id":"01","Temperature":20.5},"DS18B20-2":'
        '{"Id":"02","Temperature":21.5},"TempUnit":"C"}\n'
        'tele/tasmota_ABC/STATE {"Time":"2024-01-15T11:00:00","Wifi":{"RSSI":80}}\n',
        [
            _celsius("tasmota_ABC", 25, TEN),
            _percent("tasmota_ABC", 65.5, TEN),
            _hpa("tasmota_ABC", 1004.317544397, TEN),
            _celsius("tasmota_ABC DS18B20-1", 20.5, TEN),
            _celsius("tasmota_ABC DS18B20-2", 21.5, TEN),
        ],
        ["line 3: no field names a known type"],
    ),
    "MQTT messages by mosquitto_sub -F %J": Sample(
        '{"tst":"2024-01-15T11:00:00.000000+0100","topic":"zigbee2mqtt/kitchen","qos":0,"retain":0,"payloadlen":36,'
        '"payload":{"temperature":20.5,"linkquality":3}}\n'
        '{"tst":"2024-01-15T11:00:00.000000+0100","topic":"home/kitchen/humidity","qos":0,"payload":"45.5"}\n',
        [_celsius("kitchen", 20.5, TEN), _percent("home/kitchen", 45.5, TEN)],
    ),
    "InfluxDB line protocol": Sample(
        "# a comment\n"
        "home,room=Living\\ Room temp=21.1,hum=35.9,co=0i 1705312800\n"
        "home,room=Kitchen,sensor=a1 temp=21 1705312800000\n"
        'mqtt_consumer,host=h1,topic=home/kitchen temperature=21.5,name="x y, z=1" 1705312800000000000\n'
        "temperature,device=d1 value=22.5 1705312800000000\n"
        "°F,domain=sensor,entity_id=attic_temperature value=68 1705312800000000000\n"
        "home,room=Kitchen temp= 1705312800\n"
        "home,room=Kitchen temp=21\n",
        [
            _celsius("Living Room", 21.1, TEN, "Living Room"),
            _percent("Living Room", 35.9, TEN, "Living Room"),
            _celsius("a1", 21, TEN, "Kitchen"),
            _celsius("h1 home/kitchen", 21.5, TEN),
            _celsius("d1", 22.5, TEN),
            _celsius("attic_temperature", 20, TEN),
        ],
        ["line 7: not line protocol", "line 8: no field names the time"],
    ),
    "InfluxDB annotated CSV of two tables": Sample(
        "#group,false,false,true,true,false,false,false,true\r\n"
        "#datatype,string,long,dateTime:RFC3339,dateTime:RFC3339,dateTime:RFC3339,double,double,string\r\n"
        "#default,_result,,,,,,,\r\n"
        ",result,table,_start,_stop,_time,temperature,humidity,device\r\n"
        ",,0,2024-01-15T09:00:00Z,2024-01-15T11:00:00Z,2024-01-15T10:00:00Z,18.3,62,A\r\n\r\n"
        "#group,false,false,true,true,false,false,true,true,true\r\n"
        "#datatype,string,long,dateTime:RFC3339,dateTime:RFC3339,dateTime:RFC3339,double,string,string,string\r\n"
        "#default,_result,,,,,,,,B\r\n"
        ",result,table,_start,_stop,_time,_value,_field,_measurement,device\r\n"
        ",,1,2024-01-15T09:00:00Z,2024-01-15T11:00:00Z,2024-01-15T10:00:00Z,19.3,temp,weather,\r\n",
        [_celsius("A", 18.3, TEN), _percent("A", 62, TEN), _celsius("B", 19.3, TEN)],
    ),
    "InfluxDB annotated CSV for influx write": Sample(
        "#datatype measurement,tag,double,dateTime:RFC3339\nm,host,temperature,time\n"
        "room,host1,24.23,2024-01-15T10:00:00Z\n",
        [_celsius("host1", 24.23, TEN)],
    ),
    "wide CSV of a German Excel": Sample(
        "Zeit;Gerät;Raum;Temperatur [°C];Luftfeuchtigkeit [%];Luftdruck [hPa]\n"
        "2024-01-15 11:00:00;d1;Büro;21,5;45,2;1.013,25\n"
        "2024-01-15 11:00:00;d1;Büro;21.6;45,1;1.013,25\n",
        [
            _celsius("d1", 21.5, TEN, "Büro"),
            _percent("d1", 45.2, TEN, "Büro"),
            _hpa("d1", 1013.25, TEN, "Büro"),
            _percent("d1", 45.1, TEN, "Büro"),
            _hpa("d1", 1013.25, TEN, "Büro"),
        ],
        ["line 3: Temperatur [°C]: '21.6' is not a number: the decimal sign of this file is ','"],
    ),
    "wide CSV with US dates that prove their order": Sample(
        "Station Name,Measurement Timestamp,Air Temperature,Wet Bulb Temperature,Humidity,Barometric Pressure\n"
        "63rd Street,01/15/2024 11:00:00 AM,16.4,12.2,61,998.3\n"
        "63rd Street,15/02/2024 11:00:00 AM,16.4,12.2,61,998.3\n",
        [
            _celsius("63rd Street", 16.4, TEN),
            _percent("63rd Street", 61, TEN),
            _hpa("63rd Street", 998.3, TEN),
        ],
        ["line 3: timestamp: "],
        # Both orders are proven, so that a map must tell.
        map='[time]\nformat = "month first"\n',
    ),
    "wide CSV with units in many spellings": Sample(
        "Time (UTC)\tsensor\ttemp (K)\tpressure (kPa)\trh %\tIlluminance_lux\tTdew (degC)\n"
        "2024-01-15 10:00:00\ts\t293.15\t101.325\t45\t120\t8\n"
        "2024-01-15 10:00:00\ts\t20 °C\t101.325\t45%\t1,200\t8\n",
        [
            _celsius("s", 20, TEN),
            _hpa("s", 1013.25, TEN),
            _percent("s", 45, TEN),
            _lux("s", 120, TEN),
            _hpa("s", 1013.25, TEN),
            _percent("s", 45, TEN),
            _lux("s", 1200, TEN),
        ],
        ["line 3: temp (K): '20 °C' is not in K"],
    ),
    "wide CSV with a header of two lines, which comes again": Sample(
        'time,device,"temp\n(°C)"\n2024-01-15T10:00:00Z,d1,20\ntime,device,"temp\n(°C)"\n2024-01-15T10:00:00Z,d1,21\n',
        [_celsius("d1", 20, TEN), _celsius("d1", 21, TEN)],
    ),
    "wide CSV with a column of units": Sample(
        "time,device,temperature,unit\n2024-01-15T10:00:00Z,d1,68,F\n2024-01-15T10:00:00Z,d1,20,°C\n"
        "2024-01-15T10:00:00Z,d1,20,furlong\n2024-01-15T10:00:00Z,d1,20,\n",
        [_celsius("d1", 20, TEN), _celsius("d1", 20, TEN), _celsius("d1", 20, TEN)],
        ["line 4: temperature: the unit 'furlong' of temperature is not known"],
    ),
    "wide JSON with fields of units": Sample(
        '{"device":"d1","ts":1705312800,"temperature":68,"humidity":45,"unit":"F"}\n'
        '{"device":"d1","ts":1705312800,"temp":68,"tempUnit":"F","pressure":101325,"pressure_unit":"Pa"}\n'
        '{"device":"d1","ts":1705312800,"temperature":68,"humidity":45,"units":"imperial"}\n'
        '{"device":"d1","ts":1705312800,"temp_c":68,"unit":"F"}\n',
        [_celsius("d1", 20, TEN), _percent("d1", 45, TEN), _celsius("d1", 20, TEN), _hpa("d1", 1013.25, TEN)],
        [
            "line 3: temperature: the unit 'imperial' of temperature is not known",
            "line 3: humidity: the unit 'imperial' of humidity is not known",
            "line 4: temp_c: the unit is 'F', but the name says 'c': correct one",
        ],
    ),
    "wide CSV with a row of units": Sample(
        "TIMESTAMP,Station,AirTemp,RH\nTS,,°F,%\n2024-01-15T10:00:00Z,d1,68,45\n",
        [_celsius("d1", 20, TEN), _percent("d1", 45, TEN)],
    ),
    "wide CSV with an offset in the name of the time": Sample(
        '"#","Date Time, GMT-05:00","Device","Temp, °F","RH, %"\n1,2024-01-15 05:00:00,d1,68,45\n',
        [_celsius("d1", 20, TEN), _percent("d1", 45, TEN)],
    ),
    "wide CSV whose rows look like line protocol": Sample(
        "time,device,temp\n2024-01-15 11:00:00,a=b c=1,20\n2024-01-15 11:00:00,a=b c=1,20\n",
        [_celsius("a=b c=1", 20, TEN)] * 2,
    ),
    "wide CSV of two probes": Sample(
        "time,device,indoor_temp,outdoor_temp\n2024-01-15T10:00:00Z,d1,20,5\n",
        [_celsius("d1 indoor_temp", 20, TEN), _celsius("d1 outdoor_temp", 5, TEN)],
    ),
    "wide CSV with the same measurement in two units": Sample(
        "time,device,temp_f,temp_c\n2024-01-15T10:00:00Z,d1,68,20\n",
        [_celsius("d1", 20, TEN)],
    ),
    "wide CSV with times since 1970 in all units": Sample(
        "ts,device,temp\n1705312800,a,20\n1705312800000,a,20\n1705312800000000,a,20\n1705312800000000999,a,20\n"
        "1.7053128e9,a,20\n12345,a,20\n45306.5,a,20\n",
        [_celsius("a", 20, TEN)] * 5,
        ["line 7: timestamp: 12345 is not a time", "line 8: timestamp: 45306.5 is not a time"],
    ),
    "wide CSV with names of months": Sample(
        'Time,Sensor,Temp\n"15 Jan 2024 11:00",a,20\n"Jan 15, 2024 11:00:00 AM",a,20\n"Mon Jan 15 11:00:00 2024",a,20\n'
        '"Mon, 15 Jan 2024 11:00:00 +0100",a,20\n',
        [_celsius("a", 20, TEN)] * 4,
    ),
    "wide CSV with date and time apart": Sample(
        "Date,Time,Device,Temp\n2024-01-15,11:00:00,a,20\n",
        [_celsius("a", 20, TEN)],
    ),
    "wide CSV below other lines": Sample(
        'Name;Long;Lat;ModuleName\n"Home";50.8;7.1;\nTimestamp;"Timezone : Europe/Berlin";Temperature;Humidity\n'
        '1705312800;"2024/01/15 11:00:00";22.6;46\n',
        [_celsius("Home", 22.6, TEN), _percent("Home", 46, TEN)],
        map='[constants]\nsensor_id = "Home"\n',
    ),
    "wide CSV with names of rows": Sample(
        '"date","Temperature","Humidity","Light"\n"1","2024-01-15 11:00:00",23.18,27.272,426\n',
        [_celsius("room", 23.18, TEN), _percent("room", 27.272, TEN), _lux("room", 426, TEN)],
        map='[constants]\nsensor_id = "room"\n',
    ),
    "wide CSV with a fraction of 1": Sample(
        "Formatted Date,Temperature (C),Apparent Temperature (C),Humidity,Pressure (millibars)\n"
        "2024-01-15 11:00:00.000 +0100,9.47,7.39,0.89,1015.13\n",
        [_celsius("s", 9.47, TEN), _percent("s", 89, TEN), _hpa("s", 1015.13, TEN)],
        map='[constants]\nsensor_id = "s"\n[units]\nhumidity = "fraction"\n',
    ),
    "CSV without a header": Sample(
        "2024-01-15T10:00:00Z;d1;20,5\n",
        [_celsius("d1", 20.5, TEN)],
        map='[csv]\nheader = ["time", "device", "temp"]\n',
    ),
    "CSV with date and time in an old format": Sample(
        "Date;Time;CO(GT);T;RH;;\n15/01/2024;11.00.00;2,6;13,6;48,9;;\n",
        [_celsius("s", 13.6, TEN), _percent("s", 48.9, TEN)],
        map='[columns]\ntimestamp = ["Date", "Time"]\ntemperature = "T"\n[constants]\nsensor_id = "s"\n'
        '[time]\nformat = "%d/%m/%Y %H.%M.%S"\n',
    ),
    "CSV with a year of two digits": Sample(
        "time,device,temp\n15/01/24 11:00,a,20\n",
        [_celsius("a", 20, TEN)],
        map='[time]\nformat = "day first"\n',
    ),
    "openSenseMap": Sample(
        "sensorId,createdAt,value,lat,lon,unit,phenomenon\n5e,2024-01-15T10:00:00.000Z,21.5,52,7,°C,Temperatur\n"
        "5f,2024-01-15T10:00:00.000Z,45.5,52,7,%,rel. Luftfeuchte\n"
        "5g,2024-01-15T10:00:00.000Z,101325,52,7,Pa,Luftdruck\n",
        [_celsius("5e", 21.5, TEN), _percent("5f", 45.5, TEN), _hpa("5g", 1013.25, TEN)],
    ),
    "long CSV": Sample(
        "time,device,parameter,value,unit\n2024-01-15T10:00:00Z,d1,temp,68,°F\n"
        "2024-01-15T10:00:00Z,d1,pm25,12,µg/m³\n2024-01-15T10:00:00Z,d1,Pressure,29.92,inHg\n"
        "2024-01-15T10:00:00Z,d1,Pressure,29.92,furlong\n",
        [
            _celsius("d1", 20, TEN),
            ("d1", "pm25", 12, "µg/m³", TEN, "unknown"),
            _hpa("d1", 1013.207489067, TEN),
        ],
        ["line 5: value: the unit 'furlong' of pressure is not known"],
    ),
    "wide JSON over several lines": Sample(
        '[\n  {"device": "esp1", "time": "2024-01-15T10:00:00Z", "temp_f": 68.0, "Humidity %": 45, "lux": 120},\n'
        '  {"device": "esp1", "time": "2024-01-15T10:01:00Z", "temp_f": NaN},\n'
        '  {"device": "esp1", "time": "2024-01-15T10:02:00Z", "temp_f": 69.8\n'
        '  {"device": "esp1", "time": "2024-01-15T10:00:00Z", "temp_f": 69.8}\n]\n',
        [_celsius("esp1", 20, TEN), _percent("esp1", 45, TEN), _lux("esp1", 120, TEN), _celsius("esp1", 21, TEN)],
        ["line 3: not JSON", "line 4: not JSON"],
    ),
    "wide JSON with values and units": Sample(
        '{\n  "deviceId": "esp2",\n  "timestamp": 1705312800,\n  "data": {\n'
        '    "temperature": {"value": 68, "unit": "F"},\n'
        '    "pressure": {"value": 101325, "unit": "Pa"}\n  }\n}\n',
        [_celsius("esp2", 20, TEN), _hpa("esp2", 1013.25, TEN)],
    ),
    "JSON with a decimal comma in texts": Sample(
        '{"time":"2024-01-15T10:00:00Z","sensor":"a","temperature":"21,5"}\n',
        [_celsius("a", 21.5, TEN)],
        map='[csv]\ndecimal = ","\n',
    ),
    "JSON with a map": Sample(
        '{"when": "15.01.2024 11:00", "who": {"serial": "x1"}, "env": {"t": 293.15, "co2": 612}}\n',
        [_celsius("x1", 20, TEN), ("x1", "co2", 612, "ppm", TEN, "unknown")],
        map='[columns]\nsensor_id = "who.serial"\ntimestamp = "when"\ntemperature = "env.t"\nco2 = "env.co2"\n'
        '[units]\ntemperature = "K"\nco2 = "ppm"\n[time]\nformat = "day first"\nzone = "Europe/Berlin"\n',
    ),
}

# Files that nobody can read without a map, and what the message says.
UNCLEAR = {
    "temperatures that may be °F": (
        "airSensors,sensor_id=TLM0100 temperature=71.24 1732669098000000000\n",
        ["71.24 may be °C, °F or K", '[units]\ntemperature = "°F"'],
    ),
    "°F in a Home Assistant CSV": (
        "entity_id,state,last_changed\nsensor.porch_temperature_0h,75.0,2026-04-24T10:00:00.000Z\n",
        ["75 may be °C, °F or K", '[units]\ntemperature = "°F"'],
    ),
    "temperatures in K without a unit": (
        "time,device,temp\n2024-01-15T10:00:00Z,a,293.15\n",
        ["293.15 may be °C, °F or K", "[units]"],
    ),
    "pressure in Pa without a unit": (
        "time,device,temperature,pressure\n2024-01-15T10:00:00Z,d1,20,101325\n",
        ["pressure: 101325 is not plausible in hPa", '[units]\npressure = "Pa"'],
    ),
    "humidity as a fraction of 1": (
        "time,device,humidity\n2024-01-15T10:00:00Z,d1,0.45\n",
        ["humidity: 0.45 is not plausible in percent", 'humidity = "fraction"'],
    ),
    "a unit of something else": (
        "time,device,humidity (g/m3)\n2024-01-15T10:00:00Z,d1,8\n",
        ["the unit 'g/m3' of humidity is not known", "[units]"],
    ),
    "no sensor": ("time,temp\n2024-01-15T10:00:00Z,20\n", ["no column names a sensor", 'sensor_id = "…"']),
    "no time": ("device,temp\na,20\n", ["no column names the time", 'timestamp = "…"']),
    "no measurement": (
        "time,device,P1\n2024-01-15T10:00:00Z,a,20\n",
        ["no column names a known type", 'temperature = "…"'],
    ),
    "no number": (
        '{"time":"2024-01-15T10:00:00Z","device":"a","temperature":"21,5"}',
        ["temperature is not used: temperature: '21,5' is not a number: the decimal sign of this file is '.'"],
    ),
    "no header": ("2024-01-15T10:00:00Z,d1,20\n", ["the first line names no column that is known", "header = "]),
    "ambiguous dates": (
        '"Date Time","device","T (degC)"\n01.02.2009 00:10:00,a,-8.02\n',
        ["01.02.2009 00:10:00 in Date Time may have the day or the month first", 'format = "day first"'],
    ),
    "dates that prove both orders": (
        "time,device,temp\n15/02/2024 10:00,a,20\n02/15/2024 10:00,a,20\n",
        ["may have the day or the month first"],
    ),
    "a year of two digits": (
        "time,device,temp\n15/02/24 10:00,a,20\n",
        ["15/02/24 10:00 in time may have the day or the month first"],
    ),
    "serial dates of Excel": ("time,device,temp\n45306.41667,a,20\n", ["time: 45306.41667 is not a time", "format = "]),
    "a comma for decimals or thousands": (
        "time;device;light\n2024-01-15T10:00:00Z;a;1,234\n",
        ["1,234 may have a decimal comma", '[csv]\ndecimal = ","'],
    ),
    "ThingsBoard without a device": ('{"ts":1705312800000,"values":{"temperature":21}}', ["no field names a sensor"]),
    "weather with K in JSON": ('{"main":{"temp":298.48},"dt":1661870592,"name":"Zocca"}', ["no field names a sensor"]),
}
