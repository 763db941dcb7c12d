"""A run says what its numbers were computed with, wherever it was computed and wherever it is kept."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch

from gradviz.record.arithmetic import Arithmetic, arithmetic_text, device_said, differences
from gradviz.train.device import here
from gradviz.words import speaking

CPU = torch.device("cpu")
PLAIN = Arithmetic("cpu", "AVX2 x86_64 GenuineIntel", "", 2, "2.13.0+cpu")
PLAYED = [{}, dict(ONEDNN_MAX_CPU_ISA="SSE41", ATEN_CPU_CAPABILITY="default"),
          dict(ONEDNN_MAX_CPU_ISA="SSE41"), dict(ONEDNN_MAX_CPU_ISA="AVX2", ATEN_CPU_CAPABILITY="avx2")]  # fmt: skip


def test_every_arithmetic_that_can_be_played_says_another_one():
    """What PyTorch reports does not tell what oneDNN is held to: with SSE4.1 for oneDNN alone the numbers differ too."""
    program = (
        "import json, torch; from gradviz.train.device import here; "
        "print(json.dumps(here(torch.device('cpu'), 1).to_dict()))"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("ONEDNN_", "ATEN_", "MKL_"))}
    started = [
        subprocess.Popen([sys.executable, "-c", program], env=plain | changes, stdout=subprocess.PIPE, text=True)
        for changes in PLAYED
    ]
    said = [Arithmetic.from_dict(json.loads(process.communicate()[0])) for process in started]
    assert None not in said and len(set(said)) == len(PLAYED), said


def test_here_says_threads_processor_and_what_holds_it_to_less(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\n")
    environment = {"MKL_CBWR": "compatible", "ONEDNN_MAX_CPU_ISA": " avx2 ", "DNNL_MAX_CPU_ISA": "", "PATH": "/bin"}
    found = here(CPU, 3, environment, tmp_path / "cpuinfo")
    assert found.device == "cpu" and found.threads == 3 and found.torch == str(torch.__version__)
    assert found.processor.startswith(torch.backends.cpu.get_cpu_capability()) and found.processor.endswith(" AuthenticAMD")
    assert found.held == "MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=AVX2"
    bare = here(CPU, environment={}, cpuinfo=tmp_path / "absent")
    assert bare.held == "" and bare.threads == torch.get_num_threads() and "AMD" not in bare.processor


def test_what_differs_is_named_and_what_is_unknown_equals_nothing():
    assert differences(PLAIN, replace(PLAIN)) == ()
    for field in fields(Arithmetic):
        other = replace(PLAIN, **{field.name: {"threads": 1, "thread_changes": "0:1 7:3"}.get(field.name, "other")})
        assert differences(PLAIN, other) == (field.name,)
        text = arithmetic_text(other)
        assert text != arithmetic_text(PLAIN) and "\n" not in text and "{" not in text
    assert differences(None, PLAIN) == differences(PLAIN, None) == differences(None, None) == ("unknown",)
    assert "unknown" in arithmetic_text(None)


@pytest.mark.parametrize("values", [None, [], {}, {"device": "cpu"}, PLAIN.to_dict() | {"threads": "2"}, "cpu"], ids=repr)
def test_what_is_no_arithmetic_reads_as_unknown(values):
    assert Arithmetic.from_dict(values) is None


def test_an_arithmetic_comes_back_from_json_also_with_what_a_later_version_added():
    assert Arithmetic.from_dict(json.loads(json.dumps(PLAIN.to_dict() | {"later": 1}))) == PLAIN


def test_its_code_is_one_line_with_all_of_it():
    other = replace(PLAIN, held="ONEDNN_MAX_CPU_ISA=SSE41")
    assert PLAIN.code == "cpu AVX2 x86_64 GenuineIntel threads=2 torch=2.13.0+cpu"
    assert other.code == "cpu AVX2 x86_64 GenuineIntel ONEDNN_MAX_CPU_ISA=SSE41 threads=2 torch=2.13.0+cpu"


def test_only_a_processor_repeats_its_digits():
    assert PLAIN.repeatable and not replace(PLAIN, device="cuda").repeatable


@pytest.mark.parametrize("kept, english, chinese", [
    ("cpu, 1 thread", "cpu, 1 thread", "cpu，1 个线程"), ("cpu, 4 threads", "cpu, 4 threads", "cpu，4 个线程"),
    ("cuda, NVIDIA H100", "cuda, NVIDIA H100", "cuda, NVIDIA H100"), ("", "", ""),
    ("cpu, 99999999999 threads", "cpu, 99999999999 threads", "cpu, 99999999999 threads"),
])  # fmt: skip
def test_the_device_of_a_run_is_said_in_the_language_of_who_reads(kept, english, chinese):
    assert device_said(kept) == english
    with speaking("zh_CN"):
        assert device_said(kept) == chinese
