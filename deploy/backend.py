"""setuptools' builder of the wheel, which compiles the translations first and leaves nothing of an earlier build in it."""

import shutil
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403


def build_wheel(*given, **named):
    shutil.rmtree("build", ignore_errors=True)
    for source in Path("gradviz/locale").glob("*/LC_MESSAGES/*.po"):
        with source.open("rb") as written, source.with_suffix(".mo").open("wb") as compiled:
            write_mo(compiled, read_po(written, locale=source.parts[2]))
    return build_meta.build_wheel(*given, **named)
