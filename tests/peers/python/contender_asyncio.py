"""A contender on the leader election of the Python client's asyncio form."""

import asyncio
import logging
import os
import signal
import sys

from kubernetes.aio import config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.leaderelection import electionconfig, leaderelection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

over = False
# The start of the child, which may still be under way.
child = None


async def lead():
    global child
    if over:
        return
    print("leading", flush=True)
    child = asyncio.create_task(asyncio.create_subprocess_exec(*sys.argv[1:]))
    await (await asyncio.shield(child)).wait()
    await end(0)


async def end(code):
    """Ends the process when the child is gone. The library has no release."""
    global over
    over = True
    if child:
        process = await child
        if process.returncode is None:
            process.kill()
            await process.wait()
        print("stopped", flush=True)
    os._exit(code)


def seconds(name):
    return int(os.environ[name])


async def main():
    # The loop holds tasks weakly.
    ends = set()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: ends.add(loop.create_task(end(0))))
    await config.load_kube_config()
    async with ApiClient() as client:
        lock = LeaseLock(os.environ["NAME"], os.environ["NAMESPACE"], os.environ["IDENTITY"], client)
        election = electionconfig.Config(
            lock,
            lease_duration=seconds("LEASE_DURATION"),
            renew_deadline=seconds("RENEW_DEADLINE"),
            retry_period=seconds("RETRY_PERIOD"),
            onstarted_leading=lead,
            onstopped_leading=lambda: end(1),
        )
        await leaderelection.LeaderElection(election).run()


logging.basicConfig(level=logging.INFO)
asyncio.run(main())
