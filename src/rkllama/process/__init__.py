"""A model's process: what runs in it, what passes to it and back, and the server's side."""
