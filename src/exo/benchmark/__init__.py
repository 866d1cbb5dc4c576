"""What `exo bench` makes of its measurements."""
