"""A visitor's calls by Adobe's Python SDK to the daemon at the given host and port, its only argument. Prints what the SDK
made of the answers, in JSON."""

import json
import sys

from delivery_api_client import (
    ApiClient,
    ChannelType,
    Context,
    DeliveryRequest,
    ExecuteRequest,
    MboxRequest,
    Notification,
    NotificationMbox,
    PrefetchRequest,
    RequestDetails,
    ViewRequest,
    VisitorId,
)
from target_python_sdk import TargetClient

host = sys.argv[1]
WEB = Context(channel=ChannelType.WEB)
client = TargetClient.create(
    {
        "client": "demo",
        "organization_id": "TESTORG@AdobeOrg",
        "server_domain": host,
        "secure": False,
    }
)


def seen(made):
    """The SDK's answer, with the names that the call and its answer have in JSON."""
    as_sent = ApiClient().sanitize_for_serialization
    return {
        "request": as_sent(made["request"]),
        "response": as_sent(made["response"]),
        "targetCookie": made["target_cookie"],
        "targetLocationHintCookie": made.get("target_location_hint_cookie"),
    }


home = MboxRequest(name="home", index=0, profile_parameters={"plan": "free"})
anonymous = client.get_offers(
    {"request": DeliveryRequest(context=WEB, execute=ExecuteRequest(page_load=RequestDetails(), mboxes=[home]))}
)
# From here on the SDK knows the visitor, and the host to call, from the answers.
cookie = anonymous["target_cookie"]["value"]
later = MboxRequest(name="later", index=0, profile_parameters={"city": "Zürich & co"})
logged_in = client.get_offers(
    {
        "target_cookie": cookie,
        "request": DeliveryRequest(
            context=WEB,
            id=VisitorId(third_party_id=host),
            prefetch=PrefetchRequest(
                page_load=RequestDetails(profile_parameters={"plan": "paid"}),
                views=[ViewRequest(profile_parameters={"view": "1"})],
                mboxes=[later],
            ),
        ),
    }
)
clicked = Notification(
    id="n1", type="click", timestamp=1, mbox=NotificationMbox(name="home"), profile_parameters={"clicked": "yes"}
)
notified = client.send_notifications(
    {"target_cookie": cookie, "request": DeliveryRequest(context=WEB, notifications=[clicked])}
)
json.dump({"anonymous": seen(anonymous), "loggedIn": seen(logged_in), "notified": seen(notified)}, sys.stdout)
