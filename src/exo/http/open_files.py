"""Files and connections, of which a process may have so many open at once (RLIMIT_NOFILE)."""

import errno
import logging
import resource
import sys

log = logging.getLogger(__name__)

REMEDY = "give it more with `ulimit -n`, or LimitNOFILE= in its systemd unit"
_NO_MORE = (errno.EMFILE, errno.ENFILE)


def raise_limit() -> int:
    """Allows this process as many as it may allow itself; how many that is. What starts it often sets a lower
    limit, for programs that use `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:  # macOS says it is unlimited and takes no such number
            log.debug("the limit of open files stays %d: %s", soft, error)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def are_used_up(error: BaseException | None) -> bool:
    """Whether it was raised as there are no more files to be had."""
    return isinstance(error, OSError) and error.errno in _NO_MORE
