"""Sees to it that every execution ends: renews the leases of this process, and finds what others have lost."""

import asyncio
from collections.abc import Sequence

import structlog

from services.agent.domain.runner import RunLimits, Runner
from services.agent.domain.scribe import Scribe
from services.agent.domain.states import States
from services.agent.errors import Abandoned
from services.agent.models.executions import Execution, State
from services.agent.repository.executions import among
from services.agent.repository.queue import IS_UNWATCHED, QueueRows
from services.kit.database import Database
from services.kit.errors import Unavailable
from services.kit.faults import describe_fault

log = structlog.get_logger()

AT_A_TIME = 50


class Keeper:
    """Looks after leases, once every heartbeat, in every process."""

    def __init__(self, db: Database, runner: Runner, scribe: Scribe, states: States, limits: RunLimits) -> None:
        self._db = db
        self._runner = runner
        self._scribe = scribe
        self._states = states
        self._limits = limits

    async def keep_for_ever(self) -> None:
        """Look after leases until cancelled."""
        while True:
            for duty in (self._renew, self._rescue, self._end_abandoned):
                try:
                    await duty()
                except Unavailable:
                    pass  # Nobody else can take anything either.
                except Exception as error:  # noqa: BLE001  # without the next round, all executions of this process are lost
                    log.error("leases not looked after", duty=duty.__name__, fault=describe_fault(error))  # noqa: TRY400  # as all faults
            await asyncio.sleep(self._limits.heartbeat.total_seconds())

    async def _renew(self) -> None:
        """Renew what this process has, and break off what it has no more or is to end."""
        held = dict(self._runner.runs)
        if not held:
            return
        async with self._scribe.storing, self._db.read() as tx:
            attempts = [(execution_id, run.execution.attempt) for execution_id, run in held.items()]
            states = await QueueRows(tx).renew(attempts, self._limits.lease)
        for execution_id, run in held.items():
            state = states.get(execution_id)
            if state is None:
                run.lose()
            elif state == State.CANCELLING:
                run.break_off()

    async def _rescue(self) -> None:
        """Let what a lost process was running begin again, or end it."""
        while True:
            changed: list[Execution] = []
            async with self._db.transaction() as tx:
                orphans = await QueueRows(tx).lock_orphans(AT_A_TIME)
                for execution_id, attempt in orphans:
                    changed += await self._states.put_back(tx, execution_id, attempt, lost=True)
            self._tell(changed, "execution of a lost process")
            if len(orphans) < AT_A_TIME:
                return

    async def _end_abandoned(self) -> None:
        """Cancel what wants to be watched and is not."""
        async with self._db.read() as tx:
            unwatched = await QueueRows(tx).unwatched(AT_A_TIME)
        if unwatched:
            async with self._db.transaction() as tx:
                # Somebody may have come back since they were found.
                which = (*among(unwatched), IS_UNWATCHED)
                changed = await self._states.cancel(tx, which, because=Abandoned())
            self._tell(changed, "execution that nobody watches")

    def _tell(self, changed: Sequence[Execution], what: str) -> None:
        self._states.tell(changed)
        for execution in changed:
            log.warning(what, execution_id=str(execution.id), state=execution.state, attempt=execution.attempt)
