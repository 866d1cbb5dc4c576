"""Dialects without I/O: bytes to values of `exo.chat` and back, on the server's side and on the client's."""
