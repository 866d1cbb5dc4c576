"""Words that would drive a terminal, and how such are found."""

import re

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\x08\x7f\x00"
DRIVES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
