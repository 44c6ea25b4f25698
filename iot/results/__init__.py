"""The results database: what it holds, how a batch is written, what the page reads."""
