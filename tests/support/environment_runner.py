"""Runs a broker and a short Spark query with a checkpoint and Python workers, as a script of its own.

    python environment_runner.py DATA_DIR CHECKPOINT DATABASE_URL

It prints what it found as JSON in ASCII. Imported from a clone, it runs the code of that clone.
"""

import json
import sys
import threading
from pathlib import Path

from iot.batches import Identity
from iot.broker.broker import Broker, find_free_port
from iot.kafka.offsets import start_offsets
from iot.kafka.sender import make_sender
from iot.results.store import Store
from iot.settings import READINGS_TOPIC
from iot.spark import queries, session
from iot.spark.windows import start_windows

READINGS = 7


def main(data_dir: Path, checkpoint: Path, database_url: str) -> None:
    rejected: list[int] = []
    with Broker(find_free_port(), data_dir) as broker:
        sender = make_sender("confluent-kafka", broker.kafka, READINGS_TOPIC)
        sender.send([{"key": b"sensor", "value": b"no reading"}] * READINGS, threading.Event())
        sender.flush(30)
        sender.close()
        spark = session.start("environments", "local[2]", {"spark.ui.enabled": "false"})
        topic = queries.read_topic(
            spark, broker.kafka, READINGS_TOPIC, start_offsets(broker.kafka, READINGS_TOPIC, "earliest")
        )
        query = start_windows(
            topic,
            checkpoint,
            lambda _, __, report: rejected.append(report.rejected),
            trigger={"availableNow": True},
        )
        query.awaitTermination(120)
        failure = query.exception()
        archived = "-XX:SharedArchiveFile" in str(spark.conf.get("spark.driver.extraJavaOptions"))
        spark.stop()
    store = Store(database_url)
    store.reset(Identity(READINGS_TOPIC, "id"), "state")
    store.close()
    answer = {
        "rejected": sum(rejected),
        "failure": str(failure) if failure else None,
        "archived": archived,
        "package": str(Path(session.__file__).parents[2]),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
