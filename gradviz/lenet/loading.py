"""The program that loads a run's trained weights: its data and net as in codegen.code, and a test in place of the training."""

from __future__ import annotations

import ast
import re

from gradviz.words import gettext as _

_NET = "model = DeepLeNet()"


def loader(program: str, file: str) -> str:
    """Python text from that of codegen.code. `file`: the safetensors file that it loads, beside it."""
    head, *parts = re.split(r"\n{3,}", program.strip("\n"))
    made = next(place for place, part in enumerate(parts) if part.startswith(_NET))
    tested = parts[-1].split("\n\n")[-1]  # how the net does on unseen images
    imports = "\n".join(head.splitlines()[ast.parse(head).body[0].end_lineno :]).strip("\n")
    imports = imports.replace("from torch import nn", "from safetensors.torch import load_file\nfrom torch import nn", 1)
    about = _("The trained net of a run. Needs what the run's program needs, and safetensors (pip install safetensors).")
    loaded = f'{_NET}\nmodel.load_state_dict(load_file("{file}"))\nmodel.to(device).eval()'
    return "\n\n\n".join([f'"""{about}"""\n\n{imports}', *parts[:made], f"{loaded}\n{tested}"]) + "\n"
