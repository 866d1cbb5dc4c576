"""Property tests here are not timed: on a busy machine that would fail them for nothing."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
