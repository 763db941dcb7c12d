"""What a browser may say over Streamlit's websocket.

Streamlit trusts every client with messages that act on the whole process or on the machine: to empty everybody's caches, to
run git over the folder of the app and report it, to watch its files, to write into it. A page of ours sends none of them.
"""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import DecodeError
from streamlit.proto.BackMsg_pb2 import BackMsg

LONGEST = 1_000_000  # bytes of a message; what the widgets of a page say takes some kilobytes
LONGEST_QUERY = 8000  # characters of the page's address that it repeats
LONGEST_NAME = 400  # characters of what it calls a page, a fragment or a widget: the log repeats some of them
HEARD, IGNORED = 0, -1
TOO_BIG, NOT_UNDERSTOOD = 1009, 1003  # websocket's words for why it is closed
_KINDS = {"rerun_script", "stop_script", "app_heartbeat"}  # each about the sender's own session
_WIDGETS = ("$$ID-", "$$STREAMLIT_INTERNAL_KEY_")  # begins the ids that Streamlit gives; any other would be a key of a session
_OPERATIONS = {"deferred_file", "dataframe_chunk"}  # a download's file; the rows of a long table


class Judged(NamedTuple):
    verdict: int  # HEARD, IGNORED, or the code to close the websocket with
    whole_page: bool = False  # whether it asks that a page's script be run from its beginning


def judge(data: bytes | None) -> Judged:
    """`data`: a binary message; None: it was text."""
    if data is None:
        return Judged(NOT_UNDERSTOOD)
    if len(data) > LONGEST:
        return Judged(TOO_BIG)
    message = BackMsg()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return Judged(NOT_UNDERSTOOD)
    return Judged(_verdict(message), message.WhichOneof("type") == "rerun_script" and not message.rerun_script.fragment_id)


def _verdict(message: BackMsg) -> int:
    kind = message.WhichOneof("type")
    if kind == "backend_operation_request":
        return HEARD if message.backend_operation_request.WhichOneof("payload") in _OPERATIONS else IGNORED
    rerun = message.rerun_script
    widgets = [widget.id for widget in rerun.widget_states.widgets]
    names = (rerun.page_name, rerun.page_script_hash, rerun.fragment_id, *widgets)
    if len(rerun.query_string) > LONGEST_QUERY:
        return TOO_BIG
    if max(map(len, names)) > LONGEST_NAME or not all(id.startswith(_WIDGETS) for id in widgets):
        return IGNORED
    return HEARD if kind in _KINDS else IGNORED
