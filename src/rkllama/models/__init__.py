"""The models of a board: found, described by their owners, and given their chat templates."""
