"""How schemathesis makes and sends NDJSON, of which OpenAPI says only that it is binary; times that have passed, and one name of a batch."""

import json

import schemathesis
from hypothesis import strategies as st

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)
lines = st.lists(st.fixed_dictionaries({"thirdPartyId": st.from_regex("[a-z]{3,9}", fullmatch=True), "a": values}), min_size=1)


def body(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


schemathesis.openapi.media_type("application/x-ndjson", lines.map(body))


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context, value):
    return value if isinstance(value, bytes) else str(value).encode()


PAST = "2001-01-01T00:00:00Z"
NAME = "nightly"


@schemathesis.hook
def map_case(_context, case):
    """A time ahead of now is a 400, and so is one thing in the query and another in the header: OpenAPI cannot say so."""
    for parameters, name, value in (
        (case.query, "asOf", PAST),
        (case.headers, "Profiled-As-Of", PAST),
        (case.query, "as_of", PAST),
        (case.query, "name", NAME),
        (case.headers, "X-Batch-Name", NAME),
    ):
        if parameters and name in parameters:
            parameters[name] = value
    return case
