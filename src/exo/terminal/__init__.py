"""The live panel of `exo serve` on a terminal.

`snapshot` is what it shows, as values, and `gather` makes one of a running node with what `recent` has kept;
`view` lays it out as lines, with `layout` and `words`, without I/O; `screen` has the terminal, and `panel`
ties them together. `fitting` says whether a panel is wanted at all, and is all that is imported where not.
"""
