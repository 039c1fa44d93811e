from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra import leases
from infra.database import Db
from infra.errors import Conflict
from infra.platform import Platform

HOLDER = """
import sys, time
from infra import leases
from infra.platform import open_platform
from infra.settings import Settings
with open_platform(Settings()) as platform, leases.hold(platform.database, "piece", owner="other") as lease:
    print(lease.token, flush=True)
    sys.stdin.read()
"""


def test_a_second_holder_is_refused_and_told_who(database: Db) -> None:
    with leases.hold(database, "embed:0", owner="worker"):
        with pytest.raises(Conflict, match="embed:0 is being worked on by worker@"), leases.hold(database, "embed:0"):
            pass
        with leases.try_hold(database, "embed:0") as second:
            assert second is None
        with leases.try_hold(database, "embed:1") as other:
            assert other is not None


def test_the_patient_wait_for_the_holder_to_end(database: Db) -> None:
    held, let_go = threading.Event(), threading.Event()

    def holder() -> None:
        with leases.hold(database, "x"):
            held.set()
            let_go.wait()

    thread = threading.Thread(target=holder)
    thread.start()
    held.wait()
    with pytest.raises(Conflict), leases.hold(database, "x", patience_s=0.2):
        pass
    threading.Timer(0.2, let_go.set).start()
    with leases.hold(database, "x", patience_s=30) as lease:
        assert not lease.lost
    thread.join()


def test_tokens_grow_with_every_holding(database: Db) -> None:
    tokens = []
    for _ in range(3):
        with leases.hold(database, "x") as lease:
            tokens.append(lease.token)
            assert not lease.lost
            lease.check()
    assert tokens == sorted(set(tokens))


def test_it_is_free_again_after_an_error_inside(database: Db) -> None:
    with pytest.raises(RuntimeError, match="inside"), leases.hold(database, "x"):
        raise RuntimeError("inside")
    with leases.try_hold(database, "x") as lease:
        assert lease is not None


def test_of_many_at_once_one_gets_it(database: Db) -> None:
    database.create_collection(leases.COLLECTION)
    start, done = threading.Barrier(8), threading.Barrier(8)

    def attempt(_: int) -> bool:
        start.wait()
        with leases.try_hold(database, "x") as lease:
            done.wait()
            return lease is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def test_an_expired_lease_is_taken_over_and_its_holder_notices(database: Db) -> None:
    def later() -> float:
        return time.time() + 100

    with leases.hold(database, "x", ttl_s=1.5) as old, leases.try_hold(database, "x", clock=later) as new:
        assert new is not None
        assert new.token > old.token
        while not old.lost:
            time.sleep(0.02)
        with pytest.raises(Conflict, match="lost"):
            old.check()
        assert not new.lost
    # The loser's release must not have freed the winner's lease, nor anything else.
    assert database[leases.COLLECTION].count_documents({}) == 1


def test_the_losers_release_leaves_the_winner_alone(database: Db) -> None:
    with leases.hold(database, "x", ttl_s=30) as old:
        winner = leases.try_hold(database, "x", clock=lambda: time.time() + 100)
        assert winner.__enter__() is not None
    try:
        assert old.token == 1
        with leases.try_hold(database, "x") as third:
            assert third is None
    finally:
        winner.__exit__(None, None, None)


def test_it_is_renewed_while_it_is_held(database: Db) -> None:
    with leases.hold(database, "x", ttl_s=0.9) as lease:
        first = database[leases.COLLECTION].find_one({"_id": "x"})
        time.sleep(1.5)
        second = database[leases.COLLECTION].find_one({"_id": "x"})
        assert first is not None
        assert second is not None
        assert second["expires_at"] > first["expires_at"]
        assert not lease.lost
        with leases.try_hold(database, "x") as other:
            assert other is None


def test_one_that_cannot_be_renewed_is_lost_in_time(database: Db) -> None:
    with leases.hold(database, "x", ttl_s=0.6) as lease:
        database[leases.COLLECTION].update_one({"_id": "x"}, {"$set": {"owner": "thief"}})
        while not lease.lost:
            time.sleep(0.02)


def test_the_lease_of_a_killed_process_is_free_at_once(platform: Platform) -> None:
    environment = {**platform.settings.as_environment(), "PATH": ""}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        token = int(holder.stdout.readline())
        with leases.try_hold(platform.database, "piece") as mine:
            assert mine is None
        holder.kill()
        while True:  # Not yet collected by us, it is a zombie: dead all the same.
            with leases.try_hold(platform.database, "piece") as taken:
                if taken is not None:
                    assert taken.token == token + 1
                    break
    finally:
        holder.kill()
        holder.communicate()


def test_a_process_of_another_machine_is_not_judged(database: Db) -> None:
    with leases.hold(database, "x"):
        database[leases.COLLECTION].update_one({"_id": "x"}, {"$set": {"process.boot": "elsewhere", "process.pid": 1}})
        with leases.try_hold(database, "x") as other:
            assert other is None
