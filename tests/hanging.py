"""`exo` whose event loop SIGUSR1 blocks until SIGUSR2 comes: a node that hangs, and is alive all the same."""

import signal


def hang(number: int, frame: object) -> None:
    signal.sigwait({signal.SIGUSR2})


if __name__ == "__main__":
    from exo.main import main

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    signal.signal(signal.SIGUSR1, hang)
    main()
