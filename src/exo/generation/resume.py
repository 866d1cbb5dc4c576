"""An answer that was broken off, as the text that the model wrote of it."""

from exo.channels import Channels
from exo.chat import SoFar


def take_up(so_far: SoFar, channels: Channels, *, opened: bool) -> str:
    """What goes behind the prompt, so that the model goes on where it was; `channels` are brought there, too.

    `opened` says that the prompt ends within a thought. Tags and the white space around them are not part of
    what was said, so they are put where models of the families we know write them.
    """
    written = so_far.text
    if so_far.reasoning or opened:
        written = so_far.reasoning if opened else "<think>\n" + so_far.reasoning
        if so_far.text:
            written += "\n</think>\n\n" + so_far.text
    channels.feed(written, tokens=0)
    return written
