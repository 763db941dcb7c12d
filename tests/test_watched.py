"""`python -m gradviz watched`: what became of the nets that were watched, as text."""

import pytest
import torch
from torch import nn
from watched_nets import Mlp, trained

from gradviz.__main__ import main


def watched(model, folder, title, steps=3):
    run = trained(folder, model, 0.05, steps, title=title)
    run.close()
    return run


def test_each_run_of_a_folder_has_a_line_with_its_verdict(tmp_path, capsys):
    torch.manual_seed(0)
    watched(Mlp(), tmp_path, "Shallow")
    watched(nn.Sequential(*[part for _ in range(20) for part in (nn.Linear(6, 6), nn.Sigmoid())]), tmp_path, "Deep")
    (tmp_path / "watched" / "other.spool").write_text("nothing\n")
    assert main(["watched", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("other.spool: ")
    assert "Shallow: finished after 3 steps." in lines[1] and "vanish" not in lines[1].lower()
    assert "Deep: finished after 3 steps." in lines[2] and "vanish" in lines[2].lower()


def test_of_one_file_every_layer_is_shown_and_why_what_is_missing_is_missing(tmp_path, capsys):
    model = Mlp()
    model.second.weight.requires_grad_(False)
    run = watched(model, tmp_path, "Frozen")
    assert main(["watched", str(run.path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Frozen: finished after 3 steps.") and "second, weight_grad_rms: it is frozen" in out
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["first", "second", "last"]


@pytest.mark.parametrize("place, code", [("nowhere", 0), ("file", 1)])
def test_where_there_is_no_run_one_line_says_so(place, code, tmp_path, capsys):
    (tmp_path / "file").write_text("{}\n")
    assert main(["watched", str(tmp_path / place)]) == code
    said = capsys.readouterr()
    assert len((said.out + said.err).splitlines()) == 1
    assert ("No run of a watched net" in said.out) == (code == 0)
