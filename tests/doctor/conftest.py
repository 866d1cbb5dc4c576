"""A network of machines, as the tests of the cluster have it."""

from tests.cluster.conftest import lan, make_hosts, runtime

__all__ = ["lan", "make_hosts", "runtime"]
