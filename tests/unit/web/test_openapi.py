"""The description of the API against the API itself."""

from __future__ import annotations


def test_the_description_names_what_there_is(app, client):
    document = client.get("/api/openapi.json").json
    assert document["openapi"].startswith("3.1")
    routes = {str(rule) for rule in app.url_map.iter_rules() if not str(rule).startswith("/static")}
    assert document["paths"].keys() == routes - {"/"}
    promised = document["components"]["schemas"]["Metrics"]["required"]
    assert set(promised) <= client.get("/api/metrics").json.keys()
    given = {parameter["name"] for parameter in document["paths"]["/api/windows"]["get"]["parameters"]}
    assert given == {"minutes", "since", "until", "sensor_type", "location", "format"}
