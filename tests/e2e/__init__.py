"""Tests against a real `exo` process, over its sockets, signals and files only."""
