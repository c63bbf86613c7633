"""The kcilet's drivers with a fault at the n-th effect: each way to go wrong at each step of a pod's life."""

import asyncio
import dataclasses
import enum

from kci.kcilet import ports

_EFFECTS = ("ensure_", "pull_", "run_", "create_", "start_", "stop_", "remove_")


class Fault(enum.Enum):
    """What happens at the step: the kcilet dies (`KILLED_…`), or it sees something else than usual."""

    KILLED_BEFORE = "killed before"
    # The runtime has begun, and undoes what it can when the caller is gone.
    KILLED_WITHIN = "killed within"
    KILLED_AFTER = "killed after"
    FAILS = "fails"
    # The runtime is killed: before the call arrived, or before its answer left.
    AWAY = "away"
    UNANSWERED = "unanswered"
    TWICE = "twice"

    @property
    def kills(self):
        return self in {Fault.KILLED_BEFORE, Fault.KILLED_WITHIN, Fault.KILLED_AFTER}


class Failpoints:
    """`arm` counts effects from then on; `steps` is what was reached, `hit` is set where a kcilet dies."""

    def __init__(self, drivers):
        self.steps = []
        self.hit = asyncio.Event()
        self._buried = asyncio.Event()
        self._runtime = drivers.runtime
        self._at, self._fault = 0, None
        named = {field.name: getattr(drivers, field.name) for field in dataclasses.fields(drivers)}
        self.drivers = dataclasses.replace(
            drivers, **{name: _Watched(driver, name, self) for name, driver in named.items()}
        )

    def arm(self, at, fault):
        self.steps.clear()
        self._at, self._fault = at, fault

    @property
    def has_fired(self):
        return len(self.steps) >= self._at > 0

    async def carry_out(self, step, call):
        self.steps.append(step)
        if len(self.steps) != self._at:
            return await call()
        match self._fault:
            case Fault.KILLED_BEFORE:
                return await self._die()
            case Fault.KILLED_WITHIN:
                self._runtime.delays_s[step.partition(".")[2]] = 0.5
                self.hit.set()
                try:
                    return await call()
                finally:
                    self._runtime.delays_s.clear()
            case Fault.KILLED_AFTER:
                await call()
                return await self._die()
            case Fault.FAILS:
                raise ports.DriverError(f"cannot do {step}")
            case Fault.AWAY:
                raise ports.UnavailableError(f"cannot do {step}: nobody answers")
            case Fault.UNANSWERED:
                await call()
                raise ports.UnavailableError(f"cannot do {step}: nobody answers any more")
            case Fault.TWICE:
                await call()
                return await call()

    async def _die(self):
        self.hit.set()
        await self._buried.wait()
        raise asyncio.CancelledError

    def bury(self):
        """End what the dead kcilet still does."""
        self._buried.set()


class _Watched:
    def __init__(self, driver, name, points):
        self._driver, self._name, self._points = driver, name, points

    def __getattr__(self, name):
        found = getattr(self._driver, name)
        if not name.startswith(_EFFECTS):
            return found

        async def effect(*arguments, **options):
            step = f"{self._name}.{name}"
            return await self._points.carry_out(step, lambda: found(*arguments, **options))

        return effect
