"""Decisions over plain values, all pure: which node, which layers, which model, how long."""
