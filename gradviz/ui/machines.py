"""The computers of a cluster, as the Classroom shows them: slots that follow who comes and goes, and what is wrong."""

from __future__ import annotations

import streamlit as st

from gradviz.ui.language import fragment
from gradviz.ui.server import server
from gradviz.words import as_text, ngettext
from gradviz.words import gettext as _

_EVERY = 3.0  # seconds


@fragment(run_every=_EVERY)
def computers() -> None:
    """What the cluster has now."""
    cluster = server().cluster
    if cluster is None:
        return
    sight = cluster.sight
    count = len(sight.computers)
    title = ngettext("{slots} trainings at once on {n} computer", "{slots} trainings at once on {n} computers", count)
    for message in sight.troubles:
        st.warning(as_text(str(message)), icon=":material/lan:")
    with st.expander(title.format(slots=sight.slots, n=count), icon=":material/lan:", key="class_computers"):
        rows = [
            {
                _("computer"): each.name,
                _("state"): _("ready") if each.ready else _("not ready"),
                _("trainings at once"): each.slots,
                _("trainings there now"): each.trainings,
                _("graphics cards"): int(each.cards),
                _("memory left, GB"): None if each.memory is None else round(each.memory / 1e9, 1),
            }
            for each in sight.computers
        ]
        if rows:
            st.dataframe(rows, hide_index=True)
