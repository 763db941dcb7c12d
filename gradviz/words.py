"""The one door for words on the screen: gettext catalogues in gradviz/locale/<language>/LC_MESSAGES/gradviz.mo.

Today there is none, so every text is its own English self.
"""

from __future__ import annotations

import gettext as _gettext
from pathlib import Path

gettext = _gettext.translation("gradviz", Path(__file__).parent / "locale", fallback=True).gettext
