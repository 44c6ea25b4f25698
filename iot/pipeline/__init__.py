"""Spark into the results database, kept running."""
