"""`parley serve --processes N`: one service as several processes that share its port."""

import asyncio
import os
import sys

from services.cli.log_output import Output
from services.cli.processes import ProcessSpec
from services.cli.settings import SuiteSettings
from services.cli.supervisor import Ended, Supervisor
from services.cli.up import CannotStart, check_ports
from services.kit.settings import EXIT_BAD_SETTINGS, SettingUnusable, load


def serve_many(service: str, processes: int) -> int:
    """Run a service as several processes: started anew, not forked, and restarted when one dies; the exit code."""
    settings = load(SuiteSettings)
    names = [f"{service}-{number}" for number in range(1, processes + 1)]
    output = Output(names, as_json=settings.log_format == "json")

    async def supervise() -> int:
        argv = (sys.executable, "-m", "services.cli", "serve", service)
        env = {**os.environ, "PARLEY_REUSE_PORT": "1"}
        async with Supervisor(output) as supervisor:
            try:
                grace = settings.drain_seconds + 2
                await supervisor.start(*(ProcessSpec(name=name, argv=argv, env=env, grace=grace) for name in names))
                return await supervisor.wait()
            except Ended as ended:
                return ended.exit_code

    try:
        # The processes share the port with each other; with anybody else they must not.
        check_ports(settings.listen_host, {service: settings.ports[service]})
        return asyncio.run(supervise())
    except SettingUnusable as unusable:
        output.say(f"parley: {unusable}")
        return EXIT_BAD_SETTINGS
    except CannotStart as problem:
        output.say(f"parley: {problem}")
        return 1
    finally:
        output.close()
