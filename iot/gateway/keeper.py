"""Take a topic over for this gateway, and keep what is needed to take it over again after a kill.

**Repeats.** The topic itself is the record of what was written. Now and then the sequences that changed are saved, and
then the offsets of the topic up to which they are complete. At a start, the saved sequences and the readings behind
those offsets give exactly the last sequence of every run and sensor. Offsets are complete if they were asked for before
the changes were taken, and if everything that was handed to Kafka until then was acknowledged before they are saved.

**One writer.** A gateway that takes over writes its name into the journal, and waits ``SETTLE_S`` before it reads the
topic. An older one that still runs looks into the journal every ``CHECK_S``, and ends if there is another name. It also
accepts nothing once it could not look for ``LEASE_S``. One limit remains: a gateway that the operating system suspends
for longer, with readings in its Kafka client, may send these when it goes on. A gateway that stopped cleanly has said
so: nobody waits, and nothing has to be read.

**Unknown outcomes.** The Kafka client repeats what was not acknowledged, without a time limit and without duplicates.
If it fails for good, the gateway takes the topic over from itself: it makes a new client and reads what is there.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from itertools import chain

from kafka.errors import KafkaError

from iot.gateway.journal import Journal, Known, Saved, partitions, read_range
from iot.gateway.sequences import Last, Run
from iot.gateway.writer import Writer
from iot.gateway.writes import Write
from iot.kafka import advertised
from iot.kafka.offsets import EndOffsets, make_reader
from iot.kafka.topics import topic_id
from iot.readings import Reading, decode_batch
from iot.settings import Kafka, UserError, reason

# How often to look whether another gateway has taken over.
CHECK_S = 0.5
# How long messages are accepted after such a look.
LEASE_S = 3.0
# How long an older gateway and its last requests may take to end.
SETTLE_S = 4.0
# How often sequences are saved, and after how many readings they are saved sooner.
SAVE_S = 10.0
SAVE_READINGS = 100_000
# How long to wait before the next attempt after an error.
RETRY_S = 1.0
# How long messages on their way may take when the gateway stops.
STOP_S = 10.0
# How many records of the topic are decoded at once.
DECODED = 5_000
# How many records take so long that a line says so.
MANY = 1_000_000


class Keeper:
    """Takes the topic over, then looks after it in a thread.

    Attributes:
        failure: why the gateway must end; None while it need not.
    """

    def __init__(
        self,
        kafka: Kafka,
        topic: str,
        writer: Writer,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            say: prints a line.
            clock: returns seconds, as for ``writer``.
        """
        self._kafka, self._topic, self._writer, self._say, self._clock = kafka, topic, writer, say, clock
        self._journal = Journal(kafka, topic, uuid.uuid4().hex)
        self._ends = EndOffsets(kafka, topic)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._topic_id = ""
        self._is_away = False
        # What is to be saved once all of it is acknowledged.
        self._saving: tuple[dict[Run, Last | None], Known, Write] | None = None
        self._saved_s, self._saved_readings = -1.0, 0
        self.failure: UserError | None = None

    def open(self) -> None:
        """Take the topic over, and accept messages from then on.

        Raises:
            UserError: Kafka does not answer or refuses.
        """
        try:
            found = self._journal.read(from_beginning=True)
            self._journal.claim()
            meanwhile = self._journal.read()
            is_left_over = found.owner is not None and not found.owner.is_closed
            if is_left_over or meanwhile.has_others:
                self._say(f"the gateway before was not stopped cleanly: waiting {SETTLE_S:.0f} s for its last requests")
                self._take_over([found, meanwhile], SETTLE_S)
            else:
                self._take_over([found, meanwhile], 0.0)
        except KafkaError as error:
            raise self._no_answer(error) from error

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Accept nothing more, wait for acknowledgements, save the sequences, and let another gateway take over."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        is_clean = self._writer.close("the gateway stops", STOP_S)
        try:
            self._journal.read()
            is_ours = is_clean and not self._journal.is_taken
            if is_ours and (ends := self._ends.fetch()) is not None:
                changes, _ = self._writer.take_changes()
                self._journal.save(changes, Known(self._topic_id, ends))
                self._journal.release()
        except (KafkaError, UserError) as error:
            self._say(f"the next start takes a few seconds longer, because nothing could be saved: {reason(error)}")
        self._journal.close()
        self._ends.close()

    def _run(self) -> None:
        while not self._stop.wait(CHECK_S):
            try:
                if self._writer.failure:
                    self._recover()
                self._look_after()
                if self._is_away:
                    self._is_away = False
                    self._say(f"Kafka at {self._kafka.bootstrap_servers} is back")
            except TakenOver as error:
                self.failure = error
                self._writer.close(str(error))
                return
            except KafkaError as error:
                self._report(str(self._no_answer(error)))
            except UserError as error:
                self._report(str(error))

    def _report(self, text: str) -> None:
        if not self._is_away:
            self._is_away = True
            self._say(f"{text}; retrying")
        self._stop.wait(RETRY_S)

    def _no_answer(self, error: KafkaError) -> UserError:
        why = advertised.outage(self._kafka) or reason(error)
        return UserError(f"Kafka at {self._kafka.bootstrap_servers} does not answer ({why})")

    # Taking over ----------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Take the topic over from the client that has failed.

        Raises:
            TakenOver, UserError, KafkaError: as ``_take_over``.
        """
        why = self._writer.failure
        self._writer.close(f"Kafka failed ({why}): what it has is read from the topic")
        self._saving = None
        self._take_over([self._journal.read(from_beginning=True)], SETTLE_S)
        self._say(f"Kafka works again after: {why}")

    def _take_over(self, saved: list[Saved], settle_s: float) -> None:
        """Find out the last sequences, and accept messages.

        Args:
            saved: all of the journal.
            settle_s: how long an older gateway may still write; 0 if all that was written is saved.

        Raises:
            TakenOver: another gateway has taken over meanwhile.
            UserError, KafkaError: Kafka does not answer.
        """
        self._topic_id = topic_id(self._kafka, self._topic)
        sequences = self._writer.sequences
        sequences.clear()
        self._stop.wait(settle_s)
        saved = [*saved, self._journal.read()]
        self._require_ours()
        known = next((each.known for each in reversed(saved) if each.known), None)
        is_same_topic = known is None or known.topic_id == self._topic_id
        for run, last in chain.from_iterable(each.changes.items() for each in saved):
            if is_same_topic:
                sequences.restore(run, last)
            else:
                sequences.forget(run)
        reader = make_reader(self._kafka)
        try:
            numbers = partitions(reader, self._topic)
            ends = reader.end_offsets(numbers)
            if known is None or not settle_s:
                # No gateway has written to it since then, and what others write is not the gateway's.
                starts = ends
            else:
                starts = {each: known.offsets.get(each.partition, 0) if is_same_topic else 0 for each in numbers}
            behind = sum(ends[each] - starts[each] for each in numbers)
            if behind > MANY:
                self._say(f"reading up to {behind:,} messages of {self._topic}, to find what was written last")
            values: list[bytes | None] = []
            for record in read_range(reader, starts):
                values.append(record.value)
                if len(values) == DECODED:
                    self._add(values)
            self._add(values)
        finally:
            reader.close(autocommit=False)
        self._journal.save(sequences.take_changes(), Known(self._topic_id, {at.partition: ends[at] for at in numbers}))
        self._saved_s, self._saved_readings = self._clock(), self._writer.counts["readings"]
        checked_s = self._clock()
        self._journal.read()
        self._require_ours()
        self._writer.open(checked_s + LEASE_S)

    def _add(self, values: list[bytes | None]) -> None:
        for found in decode_batch(values):
            if isinstance(found, Reading):
                self._writer.sequences.enter(found)
        values.clear()

    # Looking after it -----------------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        """Check that no other gateway has taken over, and save sequences if that is due.

        Raises:
            TakenOver: one has.
            UserError, KafkaError: Kafka does not answer.
        """
        checked_s = self._clock()
        found = self._journal.read()
        self._require_ours()
        self._writer.extend(checked_s + LEASE_S)
        self._writer.check(found.changes)
        if self._saving is None:
            self._begin_to_save()
        elif self._saving[2].is_done:
            changes, known, barrier = self._saving
            self._saving = None
            if not barrier.is_acknowledged:
                self._writer.put_back(changes)
                return
            try:
                self._journal.save(changes, known)
            except UserError:
                self._writer.put_back(changes)
                raise

    def _begin_to_save(self) -> None:
        readings = self._writer.counts["readings"]
        is_due = self._clock() >= self._saved_s + SAVE_S or readings >= self._saved_readings + SAVE_READINGS
        if not is_due:
            return
        ends = self._ends.fetch()
        if ends is None:
            raise UserError(self._ends.outage or "Kafka does not answer")
        changes, barrier = self._writer.take_changes()
        self._saving = (changes, Known(self._topic_id, ends), barrier)
        self._saved_s, self._saved_readings = self._clock(), readings

    def _require_ours(self) -> None:
        if self._journal.is_taken:
            raise TakenOver(f"another gateway has taken the topic {self._topic} over: run one for each topic")


class TakenOver(UserError):  # noqa: N818  # a state, not only an error
    """Another gateway writes to the topic now."""
