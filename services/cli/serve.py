"""`parley serve`: one service, as one process or as several that share its port."""

import asyncio
import sys

from services.kit.process import run_service
from services.kit.settings import LogSettings, load


def serve_one(service: str, *, reuse_port: bool = False) -> int:
    """Run a service in this process; the exit code."""
    if service == "auth":
        from services.auth.settings import AuthSettings
        from services.auth.wiring import open_auth

        return run_service("auth", AuthSettings, open_auth, reuse_port=reuse_port)
    if service == "agent":
        from services.agent.settings import AgentSettings
        from services.agent.wiring import open_agent

        return run_service("agent", AgentSettings, open_agent, reuse_port=reuse_port)
    if service == "file":
        from services.file.settings import FileSettings
        from services.file.wiring import open_file

        return run_service("file", FileSettings, open_file, reuse_port=reuse_port)
    from services.chat.settings import ChatSettings
    from services.chat.wiring import open_chat

    return run_service("chat", ChatSettings, open_chat, reuse_port=reuse_port)


def serve_many(service: str, processes: int) -> int:
    """Run a service as several processes: started anew, not forked, and restarted when one dies; the exit code."""
    from services.cli.log_output import Output
    from services.cli.processes import ProcessSpec
    from services.cli.settings import SuiteSettings
    from services.cli.supervisor import Ended, Supervisor
    from services.cli.up import CannotStart, check_ports

    load(LogSettings)
    settings = load(SuiteSettings)
    names = [f"{service}-{number}" for number in range(1, processes + 1)]
    output = Output(names)

    async def supervise() -> int:
        argv = (sys.executable, "-m", "services.cli", "serve", service, "--reuse-port")
        async with Supervisor(output) as supervisor:
            try:
                await supervisor.start(*(ProcessSpec(name=name, argv=argv, grace=settings.drain_seconds + 2) for name in names))
                return await supervisor.wait()
            except Ended as ended:
                return ended.exit_code

    try:
        # The processes share the port with each other; with anybody else they must not.
        check_ports(settings.listen_host, {service: settings.ports[service]})
        return asyncio.run(supervise())
    except CannotStart as problem:
        output.say(f"parley: {problem}")
        return 1
    finally:
        output.close()
