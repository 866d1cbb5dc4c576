"""This machine as one responder."""
