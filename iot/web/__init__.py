"""The dashboard: page, API, event stream."""
