"""Everything that runs in Spark: session, queries, windows, alerts."""
