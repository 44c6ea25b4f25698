"""Readings to send: simulated sensors, recordings, faults, and when each reading is due."""
