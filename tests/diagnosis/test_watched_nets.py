"""The diagnosis of nets that were watched: healthy ones of many kinds raise no alarm at any time, what was planted is named.

The whole of it, three seeds and the nets in full size, is benchmarks/watched.py; its tables are in docs/diagnosis.md.
"""

import pytest

from benchmarks.nets import HEALTHY
from benchmarks.planted import AFTERWARDS, FAULTS
from benchmarks.watched import judge

pytestmark = pytest.mark.trains
PLANTED = FAULTS | AFTERWARDS


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_net_raises_no_alarm_at_any_time(name, tmp_path, one_thread):
    for one in judge(HEALTHY[name], 0, True, tmp_path):
        assert len(one.looks) >= 3 and not list(one.alarms)
        assert not one.last.advice and one.last.evidence


@pytest.mark.parametrize("name", PLANTED)
def test_what_was_planted_is_named_with_its_layer_its_numbers_and_what_to_do_next(name, tmp_path, one_thread):
    fault = PLANTED[name]
    (one,) = judge(fault.make, 0, True, tmp_path)
    assert one.last.findings[0] in fault.expected
    assert fault.layer in str(one.last.sentence) and one.last.advice
    for message in (one.last.sentence, *one.last.evidence, *one.last.advice):
        assert one.last.verdict == "diverged" or "nan" not in str(message).split()
