"""Trains exo-demo, the toy model that ships with exo to try the whole path without a network."""
