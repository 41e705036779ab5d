"""A fleet on a virtual clock: the rule that is served, and others to compare it with, under traffic that is made up.

A step takes fixed + row × rows, and pipelines.engine.policy.choose picks who takes part, as the engine has it. Loads
are serial on a device and go on beside drawing; a model that must leave waits for who uses it, and lets nobody new in.
Nothing is measured: the same seed gives the same figures everywhere.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from pipelines.engine import policy
from pipelines.engine.cost import StepCost
from server.worker import rule
from server.worker.cost import Cost
from server.worker.member import Flight

SHORT, LONG = (4, 1), (30, 2)  # steps, rows
SHORT_SHARE = 0.7  # of the requests
HOT = (0.85, 0.05, 0.05, 0.05)  # shares of four models


@dataclass(frozen=True)
class Scenario:
    """Devices, models, and how much is asked of them."""

    name: str
    fixed_s: float
    row_s: float
    devices: int
    models: int
    room: int  # models on a device at a time
    load: float  # share of what all devices can do in full batches
    load_s: float = 10.0
    placed: str = "spread"  # where the models are at first: spread, nowhere, or first: one hot model on one device
    shares: tuple[float, ...] = ()  # of the requests, by model; default: equal
    slower: float = 1.0  # the second half of the devices takes so many times as long

    @property
    def cost(self) -> Cost:
        measured = StepCost(self.fixed_s, self.row_s, area=1, min_rows=2)
        return Cost(self.fixed_s, self.row_s, 1, measured.most_rows(1))


SCENARIOS = (
    Scenario("full, 4 devices, 1 model", 0.002, 0.012, 4, 1, 1, 0.7),
    Scenario("full, 4 devices, 6 models, 2 fit each", 0.002, 0.012, 4, 6, 2, 0.5),
    Scenario("the same, cold start", 0.002, 0.012, 4, 6, 2, 0.5, placed="nowhere"),
    Scenario(
        "full, a hot model on one device", 0.002, 0.012, 4, 4, 3, 0.6, placed="first", shares=(0.85, 0.05, 0.05, 0.05)
    ),
    Scenario("idle, 4 devices, 3 models", 0.024, 0.001, 4, 3, 3, 0.35),
    Scenario("idle, 8 devices, 12 models, 3 fit each", 0.024, 0.001, 8, 12, 3, 0.3),
    Scenario("2 full devices and 2 that are 4 times as slow", 0.002, 0.012, 4, 3, 3, 0.5, slower=4.0),
)


@dataclass(eq=False)
class Request:
    """A request, and at once its waiting call, as the policy sees it."""

    came_s: float
    steps_left: int
    rows: int
    key: str
    area: int = 1
    principal: str = "one"
    first: bool = False
    passed_over: int = 0
    pinned: bool = False  # its model is there for it
    done_s: float = 0.0
    flight: Flight = field(init=False)

    def __post_init__(self) -> None:
        self.flight = Flight(self.key, self.rows, 1, self.steps_left)


class Device:
    """One simulated device, and the rule's outlook on it."""

    def __init__(self, scenario: Scenario, models: Sequence[str], slower: float = 1.0) -> None:
        cost = scenario.cost
        self.step_cost = Cost(cost.fixed_s * slower, cost.row_s * slower, 1, cost.most_rows)
        self.scenario = scenario
        self.requests: list[Request] = []
        self.used_s = dict.fromkeys(models, 0.0)  # of the models that are there: when one was used last
        self.queue: list[str] = []  # models to load, the first under way where loading says so
        self.loading = self.stepping = False
        self.leaving = ""
        self.loads = 0
        self.now_s = self.loaded_at_s = 0.0

    @property
    def flights(self) -> Sequence[Flight]:
        return [request.flight for request in self.requests]

    def cost(self, key: str) -> Cost:
        return self.step_cost

    def has(self, key: str) -> bool:
        return key in self.used_s and key != self.leaving

    def load_s(self, key: str) -> float:
        if self.has(key):
            return 0.0
        under_way = self.loading and self.queue[0] == key
        return max(self.loaded_at_s - self.now_s, 0.01) if under_way else self.scenario.load_s

    @property
    def awaited(self) -> Sequence[str]:
        return self.queue

    def crowds(self, key: str) -> bool:
        return len(self.used_s) + len(self.queue) + 1 > self.scenario.room

    @property
    def rows(self) -> int:
        return sum(request.rows for request in self.requests)

    @property
    def work_s(self) -> float:
        steps = max((request.steps_left for request in self.requests), default=0)
        rows = sum(request.steps_left * request.rows for request in self.requests)
        return steps * self.step_cost.fixed_s + rows * self.step_cost.row_s


Rule = Callable[[Request, Sequence[Device]], Device]


def round_robin() -> Rule:
    turns = itertools.count()
    return lambda request, devices: devices[next(turns) % len(devices)]


def least_connections() -> Rule:
    return lambda request, devices: min(devices, key=lambda device: len(device.requests))


def shortest_work() -> Rule:
    return lambda request, devices: min(devices, key=lambda device: device.work_s)


def fill_to_the_knee() -> Rule:
    """The fullest device that has the model and room in a step, else the emptiest that has it, else the emptiest."""

    def choose(request: Request, devices: Sequence[Device]) -> Device:
        having = [device for device in devices if device.has(request.key) or request.key in device.queue]
        roomy = [device for device in having if device.rows + request.rows <= device.step_cost.most_rows]
        if roomy:
            return max(roomy, key=lambda device: device.rows)
        return min(devices, key=lambda device: device.work_s + (0 if device in having else device.scenario.load_s))

    return choose


def ours() -> Rule:
    return lambda request, devices: rule.choose(request.flight, devices)


RULES: dict[str, Callable[[], Rule]] = {
    "round robin": round_robin,
    "least connections": least_connections,
    "fill to the knee": fill_to_the_knee,
    "shortest work": shortest_work,
    "ours": ours,
}


def traffic(scenario: Scenario, count: int, seed: int, capacity: float) -> list[Request]:
    """Poisson arrivals; ``capacity`` is in devices of the scenario's speed."""
    dice, at, requests = random.Random(seed), 0.0, []
    cost = scenario.cost
    row_s = cost.row_s + cost.fixed_s / cost.most_rows
    kinds = ((SHORT_SHARE, SHORT), (1 - SHORT_SHARE, LONG))
    mean_s = sum(share * steps * rows * row_s for share, (steps, rows) in kinds)
    names = [f"model {number}" for number in range(scenario.models)]
    for _ in range(count):
        at += dice.expovariate(scenario.load * capacity / mean_s)
        steps, rows = SHORT if dice.random() < SHORT_SHARE else LONG
        (name,) = dice.choices(names, scenario.shares or None)
        requests.append(Request(at, steps, rows, name))
    return requests


def placed(scenario: Scenario, number: int) -> list[str]:
    """The models that are on a device at first."""
    if scenario.placed == "nowhere":
        return []
    if scenario.placed == "first":  # the others are everywhere
        cold = [f"model {each}" for each in range(1, scenario.models)][: scenario.room - 1]
        return [*cold, "model 0"] if number == 0 else cold
    room = min(scenario.room, scenario.models)
    return [f"model {(number * room + each) % scenario.models}" for each in range(room)]


@dataclass(frozen=True)
class Outcome:
    """The latencies of all requests, in order of arrival, and how many loads it took."""

    latencies: list[float]
    loads: int


def simulate(scenario: Scenario, make_rule: Callable[[], Rule], count: int = 1000, seed: int = 0) -> Outcome:
    """Serve so many requests by a rule."""
    slower = [scenario.slower if 2 * n >= scenario.devices else 1.0 for n in range(scenario.devices)]
    devices = [Device(scenario, placed(scenario, number), slow) for number, slow in enumerate(slower)]
    requests = traffic(scenario, count, seed, sum(1 / slow for slow in slower))
    choose, numbers = make_rule(), itertools.count()
    events: list[tuple[float, int, Callable[[float], None]]] = []

    def at(time_s: float, event: Callable[[float], None]) -> None:
        heapq.heappush(events, (time_s, next(numbers), event))

    def arrive(request: Request) -> Callable[[float], None]:
        def event(now: float) -> None:
            for each in devices:
                each.now_s = now
            device = choose(request, devices)
            device.requests.append(request)
            if device.has(request.key):
                request.pinned, device.used_s[request.key] = True, now
            elif request.key not in device.queue:
                device.queue.append(request.key)
            go_on(device, now)

        return event

    def go_on(device: Device, now: float) -> None:
        load_next(device, now)
        waiting = [request for request in device.requests if request.pinned]
        if device.stepping or not waiting:
            return
        device.stepping = True
        most: dict[Hashable, int] = dict.fromkeys((request.key for request in waiting), device.step_cost.most_rows)
        chosen = policy.choose(waiting, most)
        rows = sum(request.rows for request in chosen)
        for request in waiting:
            request.passed_over += request not in chosen
        at(now + device.step_cost.fixed_s + device.step_cost.row_s * rows, step(device, chosen))

    def step(device: Device, chosen: Sequence[Request]) -> Callable[[float], None]:
        def event(now: float) -> None:
            device.stepping = False
            for request in chosen:
                request.steps_left -= 1
                request.flight.steps_left = request.steps_left
                device.used_s[request.key] = now
                if not request.steps_left:
                    request.done_s = now
                    device.requests.remove(request)
            go_on(device, now)

        return event

    def load_next(device: Device, now: float) -> None:
        if device.loading or not device.queue:
            return
        if len(device.used_s) >= scenario.room:
            in_use = {request.key for request in device.requests if request.pinned}
            device.leaving = device.leaving or min(device.used_s, key=lambda key: (key in in_use, device.used_s[key]))
            if device.leaving in in_use:
                return
            del device.used_s[device.leaving]
            device.leaving = ""
        device.loading, device.loaded_at_s = True, now + scenario.load_s
        device.loads += 1
        at(now + scenario.load_s, loaded(device))

    def loaded(device: Device) -> Callable[[float], None]:
        def event(now: float) -> None:
            key = device.queue.pop(0)
            device.loading, device.used_s[key] = False, now
            for request in device.requests:
                request.pinned |= request.key == key
            go_on(device, now)

        return event

    for request in requests:
        at(request.came_s, arrive(request))
    while events:
        now, _, event = heapq.heappop(events)
        event(now)
    return Outcome([request.done_s - request.came_s for request in requests], sum(device.loads for device in devices))
