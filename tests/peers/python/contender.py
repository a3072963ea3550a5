"""A contender on the Python client's leader election, used as its own example does."""

import logging
import os
import signal
import subprocess
import sys
import threading

from kubernetes import config
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

LOCKS = {"lease": LeaseLock, "configmap": ConfigMapLock}

# Signals are handled in the main thread, which may hold it already.
mutex = threading.RLock()
child = None
over = False


def lead():
    global child
    with mutex:
        if over:
            return
        print("leading", flush=True)
        child = subprocess.Popen(sys.argv[1:])
    child.wait()
    end(0)


def end(code):
    """Ends the process when the child is gone. The library has no release."""
    global over
    with mutex:
        over = True
        if child:
            child.kill()
            child.wait()
            print("stopped", flush=True)
        os._exit(code)


def seconds(name):
    return int(os.environ[name])


logging.basicConfig(level=logging.INFO)
signal.signal(signal.SIGTERM, lambda *_: end(0))
config.load_kube_config()
lock = LOCKS[os.environ["LOCK"]](os.environ["NAME"], os.environ["NAMESPACE"], os.environ["IDENTITY"])
election = electionconfig.Config(
    lock,
    lease_duration=seconds("LEASE_DURATION"),
    renew_deadline=seconds("RENEW_DEADLINE"),
    retry_period=seconds("RETRY_PERIOD"),
    onstarted_leading=lead,
    onstopped_leading=lambda: end(1),
)
leaderelection.LeaderElection(election).run()
