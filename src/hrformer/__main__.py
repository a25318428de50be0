"""``python -m hrformer``."""

from __future__ import annotations

import sys

from hrformer.cli import main

sys.exit(main())
