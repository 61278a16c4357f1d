import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import ray

from mimosa.cluster.pool import ActorPool, PoolExhausted, describe
from mimosa.cluster.watchdog import Interrupted, StallError, StopFlag, gather

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors below are defined in a test file
pytestmark = pytest.mark.usefixtures("ray_cluster")


class Worker:
    def __init__(self):
        self.weights = None

    def double(self, rows, seconds=0.0):
        time.sleep(seconds)
        return [2 * row for row in rows]

    def die_once(self, rows, mark):
        """The first call to see the mark removes it and dies with its work half done."""
        if 3 in rows and os.path.exists(mark):
            os.unlink(mark)
            os.kill(os.getpid(), signal.SIGKILL)
        return list(rows)

    def die(self, rows):
        os._exit(1)

    def fail(self, rows):
        raise KeyError(rows[0])

    def update_weights(self, weights):
        self.weights = weights

    def held(self, rows):
        return self.weights


@pytest.fixture
def pool():
    made = []

    def build(count=2, timeout=30.0, restarts=2, **more):
        remote = ray.remote(Worker).options(num_cpus=1)
        made.append(ActorPool("test", lambda: remote.remote(), count, restarts=restarts, timeout=timeout, **more))
        return made[-1]

    yield build
    for one in made:
        one.kill()


def test_every_unit_once(pool):
    units = [([i],) for i in range(23)]
    found = list(pool(3).map("double", units, in_flight=2))
    assert sorted(unit[0][0] for unit, _ in found) == list(range(23))
    assert all(result == [2 * unit[0][0]] for unit, result in found)


def test_a_source_that_has_nothing_just_now_is_asked_again(pool):
    out = drawn = 0

    def units():
        nonlocal out, drawn
        for i in range(11):
            while out >= 2:
                yield None
            out, drawn = out + 1, drawn + 1
            yield [i], 0.02

    found = []
    for unit, _ in pool(2).map("double", units(), in_flight=3):
        found.append(unit[0][0])
        assert drawn - len(found) < 2
        out -= 1
    assert sorted(found) == list(range(11))


def test_a_dead_member_is_replaced_and_its_units_issued_again(pool, tmp_path):
    mark, said = tmp_path / "mark", []
    mark.touch()
    workers = pool(2, on_restart=said.append, prepare=lambda actor: actor.update_weights.remote(7))
    found = list(workers.map("die_once", [([i], str(mark)) for i in range(9)], in_flight=3))
    assert sorted(result[0] for _, result in found) == list(range(9))
    assert workers.restarted == 1
    assert "test actor" in said[0] and "died" in said[0]
    fresh = [ray.get(member.held.remote([0])) for member in workers.members]
    assert fresh.count(7) == 1


def test_deaths_beyond_the_bound_end_it(pool):
    with pytest.raises(PoolExhausted, match="test actor 0 died once more"):
        list(pool(1, restarts=1).map("die", [([1],)]))


def test_a_call_without_an_answer_is_named(pool):
    request = SimpleNamespace(uid="p17@0")
    with pytest.raises(StallError, match=r"test actor 0: double of p17@0 has not answered after 1 s"):
        list(pool(1, timeout=1.0).map("double", [([request], 60.0)]))


class Broken(Worker):
    def __init__(self):
        raise FileNotFoundError("no such policy")


def test_an_actor_that_cannot_start_is_not_started_again(pool):
    workers = pool(1)
    workers.make = lambda: ray.remote(Broken).remote()
    workers.members[0] = workers.make()
    with pytest.raises(PoolExhausted, match="test actor 0 could not start: FileNotFoundError: no such policy"):
        list(workers.map("double", [([1],)]))


def test_an_error_of_the_method_is_raised(pool):
    with pytest.raises(KeyError):
        list(pool(1).map("fail", [(["x"],)]))


def test_an_interrupt_ends_the_wait(pool):
    stop = StopFlag()
    flow = pool(1).map("double", [([1],), ([2], 30.0)], stop=stop)
    next(flow)
    stop.event.set()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        next(flow)
    assert time.monotonic() - started < 5


def test_units_are_drawn_as_members_become_free(pool):
    drawn = []

    def source():
        for i in range(6):
            drawn.append(i)
            yield ([i],)

    flow = pool(2).map("double", source(), in_flight=1)
    next(flow)
    assert len(drawn) <= 3


def test_gather_names_what_is_missing(pool):
    slow = pool(1).members[0].double.remote([1], 30.0)
    with pytest.raises(StallError, match="learner learn: 1 of 1 answers missing after 1 s"):
        gather([slow], 1.0, "learner learn")


def test_units_are_described_by_their_rows():
    rows = [SimpleNamespace(uid=f"p{i}") for i in range(5)]
    assert describe((rows, 1)) == "p0, p1, p2 and 2 more"
    assert describe(([("prompt", rows[1])],)) == "p1"
