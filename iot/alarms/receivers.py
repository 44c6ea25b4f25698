"""Turn a notification into the message of a receiver, and deliver it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from iot.alarms import http_post, messages
from iot.alarms.grouping import Notification
from iot.alarms.notify_file import Receiver
from iot.alarms.outcome import DELIVERED, Outcome
from iot.alarms.secret import Secret

Deliver = Callable[[Notification], Outcome]
Post = Callable[[str, Mapping[str, str], bytes], Outcome]

# Maximum number of alarms in one request to an Alertmanager.
ALERTS_PER_REQUEST = 500


def deliver_to(
    receiver: Receiver, external_url: str, clock: Callable[[], float], post: Post = http_post.post_json
) -> Deliver:
    """Return the function that delivers notifications to a receiver. It raises nothing that the receiver may cause.

    Args:
        clock: the time in seconds since the epoch.
    """
    if receiver.kind == "webhook":

        def deliver(notification: Notification) -> Outcome:
            body = messages.webhook_body(notification, receiver.name, receiver.max_alerts, external_url)
            return post(receiver.url.reveal(), _plain(receiver.headers), msgspec.json.encode(body))

    elif receiver.kind == "alertmanager":

        def deliver(notification: Notification) -> Outcome:
            alerts = messages.alertmanager_alerts(notification, external_url, clock())
            is_begun = False
            for first in range(0, len(alerts), ALERTS_PER_REQUEST):
                body = msgspec.json.encode(alerts[first : first + ALERTS_PER_REQUEST])
                outcome = post(_alerts_url(receiver.url.reveal()), _plain(receiver.headers), body)
                if outcome.result != "delivered":
                    return outcome._replace(is_unsure=outcome.is_unsure or is_begun)
                is_begun = True
            return DELIVERED

    else:

        def deliver(notification: Notification) -> Outcome:
            # The library takes half a second to load.
            from iot.alarms import apprise_post

            url = receiver.url.reveal()
            text = messages.text(notification, external_url, apprise_post.most_characters(url))
            return apprise_post.send(url, messages.title(notification), text, bool(notification.firing))

    return deliver


def _alerts_url(url: str) -> str:
    path, mark, query = url.partition("?")
    return f"{path.rstrip('/')}/api/v2/alerts{mark}{query}"


def _plain(headers: Mapping[str, Secret]) -> dict[str, str]:
    return {name: value.reveal() for name, value in headers.items()}
