"""Break things under the service, and see whether its callers are told the truth.

Real gunicorn, 2 workers of 4 threads in production's configuration, on Postgres clusters of its own. Prints a table,
and ends with status 1 where something did not hold or could not be tried.

    .venv/bin/python -m benchmarks.chaos                 # everything
    .venv/bin/python -m benchmarks.chaos frozen lock     # some faults

Debian's nginx, slowhttptest and wrk are needed for `rolling`, `slow` and `memory`, and root, to mount a file system,
for `disk`.
"""

import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import psutil
import psycopg2

from benchmarks.topology import (
    USER,
    Cluster,
    IdleWatch,
    Load,
    Nginx,
    Service,
    ask,
    deployment,
    until,
)


class NotTried(Exception):
    """A fault that this machine cannot have."""


class Options:
    """How long and how often."""

    seconds = 30
    rounds = 20
    restarts = 10
    requests = 500_000


Outcome = tuple[bool, str]
#: What each fault is and what must hold, and the function that tries it.
FAULTS: dict[str, tuple[str, str, Callable[[IdleWatch], Outcome]]] = {}


def fault(what: str, must_hold: str) -> Callable[[Callable[[IdleWatch], Outcome]], Callable[[IdleWatch], Outcome]]:
    """Decorate a function that tries a fault and returns whether all held, and what was measured."""

    def decorator(function: Callable[[IdleWatch], Outcome]) -> Callable[[IdleWatch], Outcome]:
        FAULTS[function.__name__] = what, must_hold, function
        return function

    return decorator


def need(program: str) -> None:
    """Give up where a program is missing."""
    if not shutil.which(program):
        raise NotTried(f"{program} is not installed")


def told(wrong: list[str], text: str) -> Outcome:
    """Return an outcome, with the first of what is wrong."""
    return not wrong, f"{text}; {len(wrong)} wrong: {wrong[0]}" if wrong else text


def user(number: str) -> dict[str, str]:
    """Return a new user."""
    return {"username": "chaos", "email": f"{number}-{time.monotonic_ns()}@example.org"}


@fault("Postgres restarted while the service is idle", "the next 100 requests: no failure")
def restarted(watch: IdleWatch) -> Outcome:
    """Restart an idle database."""
    with deployment(watch) as (cluster, service):
        with Load(service.port, 16):
            time.sleep(2)
        cluster.stop()
        cluster.start()
        statuses = Counter(ask(service.port, "GET", "/users?limit=1")[0] for _ in range(50))
        statuses.update(ask(service.port, "POST", "/users", user("restarted"))[0] for _ in range(50))
    return statuses == {200: 50, 201: 50}, f"{dict(statuses)}"


@fault(
    "kill -9 of a backend, of Postgres, of a worker, of the master, in turn under load",
    "no write lost or doubled, every answer right or 503, writes within 2 s",
)
def killed(watch: IdleWatch) -> Outcome:
    """Kill everything in turn."""
    times: dict[str, list[float]] = {"backend": [], "postgres": [], "worker": [], "master": []}
    with deployment(watch) as (cluster, service), Load(service.port) as load:
        load.writes_again(time.monotonic())
        for _ in range(Options.rounds):
            time.sleep(0.5)
            backends = "SELECT pid FROM pg_stat_activity WHERE application_name = 'users'"
            until(lambda: bool(cluster.query(backends)))
            others = [pid for (pid,) in cluster.query(backends)]
            os.kill(others[0], signal.SIGKILL)
            # Postgres ends them all, and then takes connections anew.
            until(lambda: not any(map(psutil.pid_exists, others)))
            until(cluster.accepts)
            times["backend"].append(load.writes_again(time.monotonic()))
            cluster.kill()
            time.sleep(0.2)
            cluster.start()
            times["postgres"].append(load.writes_again(time.monotonic()))
            service.workers()[0].kill()
            times["worker"].append(load.writes_again(time.monotonic()))
            service.process.kill()
            service.process.wait()
            service.start()
            times["master"].append(load.writes_again(time.monotonic()))
            until(lambda: len(service.workers()) == 2)
        load.stopping.set()
        for thread in load.threads:
            thread.join()
        wrong = load.wrong(cluster)
        wrong += [f"writes after {name} only in {max(found):.1f} s" for name, found in times.items() if max(found) > 2]
        unanswered = sum(number for (_, status), number in load.statuses.items() if status == 0)
        refused = sum(number for (_, status), number in load.statuses.items() if status == 503)
    slowest = ", ".join(f"{name} {max(found):.2f} s" for name, found in times.items())
    return told(
        wrong,
        f"{4 * Options.rounds} kills, {len(load.ids)} acknowledged, {refused} × 503, {unanswered} unanswered;"
        f" slowest to write again: {slowest}",
    )


@fault("Postgres frozen (SIGSTOP)", "calls within 6 s, /ping at once, /health 503 within 2 s, recovery by itself")
def frozen(watch: IdleWatch) -> Outcome:
    """Freeze the database."""
    probes: dict[str, list[tuple[int, float]]] = {"/ping": [], "/health": []}
    with deployment(watch) as (cluster, service), Load(service.port, 16) as load:
        load.writes_again(time.monotonic())
        workers = service.workers()
        time.sleep(1)
        cluster.signal(signal.SIGSTOP)
        start = time.monotonic()
        time.sleep(0.1)
        while time.monotonic() < start + Options.seconds:
            for path, found in probes.items():
                status, _, seconds = ask(service.port, "GET", path)
                found.append((status, seconds))
            time.sleep(0.2)
        cluster.signal(signal.SIGCONT)
        again = load.writes_again(time.monotonic())
        time.sleep(1)
        load.stopping.set()
        for thread in load.threads:
            thread.join()
        slowest = max(seconds for _, _, _, seconds in load.since(start - 6))
        wrong = load.wrong(cluster)
        wrong += [f"a call took {slowest:.1f} s"] if slowest > 6 else []
        unanswered = [call for call in load.calls if call[2] == 0]
        wrong += [f"{len(unanswered)} calls were not answered"] if unanswered else []
        wrong += ["the workers are others"] if service.workers() != workers else []
        ping, health = (max(seconds for _, seconds in probes[path]) for path in probes)
        wrong += [f"/ping took {ping:.2f} s"] if ping > 0.5 or {s for s, _ in probes["/ping"]} != {200} else []
        statuses = {status for status, _ in probes["/health"]}
        wrong += [f"/health {statuses} in {health:.2f} s"] if health > 2 or statuses != {503} else []
    return told(
        wrong,
        f"slowest call {slowest:.2f} s, /ping {ping * 1000:.0f} ms, /health {statuses} {health:.2f} s, writes after"
        f" {again:.2f} s",
    )


@fault("LOCK TABLE users held", "503 within 3 s, not a hung worker")
def lock(watch: IdleWatch) -> Outcome:
    """Hold a lock on the table."""
    with deployment(watch) as (cluster, service), contextlib.closing(cluster.connect("users_prod")) as blocker:
        with Load(service.port) as load:
            load.writes_again(time.monotonic())
            blocker.autocommit = False
            blocker.cursor().execute("LOCK TABLE users")
            start = time.monotonic()
            time.sleep(Options.seconds)
            held = load.since(start)
            blocker.rollback()
            again = load.writes_again(time.monotonic())
        slowest = max(seconds for _, _, _, seconds in held)
        statuses = Counter(status for _, _, status, _ in held)
        wrong = load.wrong(cluster)
    wrong += [f"a call took {slowest:.2f} s"] if slowest > 3 else []
    wrong += [f"answers {dict(statuses)}"] if set(statuses) != {503} else []
    return told(wrong, f"{statuses[503]} × 503, slowest {slowest:.2f} s, writes after {again:.2f} s")


@fault("max_connections used up", "503 within 2 s, recovery at once")
def connections(watch: IdleWatch) -> Outcome:
    """Use up the database's connections."""
    with deployment(watch, "max_connections=20") as (cluster, service), contextlib.ExitStack() as taken:
        ask(service.port, "GET", "/users")
        terminate = "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE application_name = 'users'"
        with contextlib.closing(cluster.connect()) as one:
            one.cursor().execute(terminate)
        with contextlib.suppress(psycopg2.OperationalError):
            while True:
                taken.enter_context(contextlib.closing(cluster.connect()))
        answers = [ask(service.port, "GET", "/users") for _ in range(20)]
        taken.close()
        after = ask(service.port, "POST", "/users", user("connections"))
    slowest = max(seconds for _, _, seconds in answers)
    statuses = Counter(status for status, _, _ in answers)
    held = set(statuses) == {503} and slowest < 2 and after[0] == 201
    return held, f"{dict(statuses)}, slowest {slowest:.2f} s, then {after[0]} in {after[2]:.2f} s"


@fault("pool used up by 32 clients on slow statements", "503 within 2 s, recovery at once")
def pool(watch: IdleWatch) -> Outcome:
    """Let each insert take 4 s."""
    with deployment(watch) as (cluster, service):
        ask(service.port, "GET", "/users")
        sleep = (
            "CREATE FUNCTION slow() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(4); RETURN NEW; END' LANGUAGE plpgsql"
        )
        cluster.query(sleep, "users_prod")
        cluster.query("CREATE TRIGGER slow BEFORE INSERT ON users EXECUTE FUNCTION slow()", "users_prod")
        with ThreadPoolExecutor(32) as clients:
            answers = list(clients.map(lambda n: ask(service.port, "POST", "/users", user(f"pool{n}")), range(32)))
        after = ask(service.port, "GET", "/users")
        refused = [seconds for status, _, seconds in answers if status == 503]
        statuses = Counter(status for status, _, _ in answers)
    held = (
        bool(refused)
        and max(refused) < 2
        and set(statuses) <= {201, 503}
        and (after[0], after[2] < 0.5) == (200, True)
    )
    slowest = max(refused, default=0)
    return held, f"{dict(statuses)}, slowest 503 {slowest:.2f} s, then {after[0]} in {after[2]:.2f} s"


@fault("disk of the database full (a tablespace on a small tmpfs)", "503 on writes, reads go on, recovery within 1 s")
def disk(watch: IdleWatch) -> Outcome:
    """Fill the disk."""
    folder = Path(tempfile.mkdtemp(prefix="users-chaos-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size=24m,mode=0700,uid={USER.uid},gid={USER.gid}", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        folder.rmdir()
        raise NotTried("only root can mount a tmpfs")
    try:
        with deployment(watch) as (cluster, service):
            cluster.query(f"CREATE TABLESPACE small LOCATION '{folder}'")
            cluster.query("ALTER DATABASE users_prod CONNECTION LIMIT 0")
            cluster.query("SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE datname = 'users_prod'")
            cluster.query("ALTER DATABASE users_prod SET TABLESPACE small")
            cluster.query("ALTER DATABASE users_prod CONNECTION LIMIT -1")
            first = ask(service.port, "POST", "/users", user("disk"))
            with contextlib.suppress(OSError), open(folder / "full", "wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
            # What has room in a page that is there already is written all the same.
            until(lambda: ask(service.port, "POST", "/users", user("disk"))[0] != 201)
            writes = Counter(ask(service.port, "POST", "/users", user("disk"))[0] for _ in range(50))
            reads = Counter(ask(service.port, "GET", f"/users/{first[1]['data']['id']}")[0] for _ in range(50))
            (folder / "full").unlink()
            again = until(lambda: ask(service.port, "POST", "/users", user("disk"))[0] == 201)
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()
    held = set(writes) == {503} and set(reads) == {200} and again < 1
    return held, f"writes {dict(writes)}, reads {dict(reads)}, writes after {again:.2f} s"


@fault("primary stopped, standby promoted", "writes within 10 s without a restart, no acknowledged write lost")
def failover(watch: IdleWatch) -> Outcome:
    """Move to the standby."""
    with contextlib.ExitStack() as stack:
        primary = Cluster("synchronous_standby_names=*")
        stack.callback(primary.remove)
        standby = Cluster("hot_standby=on", copy_of=primary)
        stack.callback(standby.remove)
        until(lambda: primary.query("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")[0][0] == 1)
        primary.query("CREATE DATABASE users_prod")
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        service = Service(f"postgresql://postgres@{hosts}/users_prod?target_session_attrs=read-write")
        stack.callback(service.stop)
        service.manage("db", "upgrade")
        workers = service.workers()
        watch.clusters.append(standby)
        stack.callback(watch.clusters.remove, standby)
        with Load(service.port) as load:
            load.writes_again(time.monotonic())
            time.sleep(3)
            start = time.monotonic()
            primary.stop()
            stopped = time.monotonic()
            time.sleep(1)
            standby.query("SELECT pg_promote()")
            again = load.writes_again(stopped) + stopped - start
            time.sleep(2)
        wrong = load.wrong(standby)
        wrong += [f"writes only after {again:.1f} s"] if again > 10 else []
        wrong += ["the workers are others"] if service.workers() != workers else []
    unanswered = sum(number for (_, status), number in load.statuses.items() if status == 0)
    return told(wrong, f"{len(load.ids)} acknowledged, writes after {again:.2f} s, {unanswered} unanswered")


@fault("rolling restart of two instances behind nginx, under load", "no failed request, POST included")
def rolling(watch: IdleWatch) -> Outcome:
    """Restart one instance after the other."""
    need("nginx")
    with deployment(watch) as (cluster, first), contextlib.ExitStack() as stack:
        second = Service(first.environment["DATABASE_URL"])
        stack.callback(second.stop)
        nginx = Nginx(first.port, second.port)
        stack.callback(nginx.stop)
        with Load(nginx.port) as load:
            for _ in range(Options.restarts):
                for service in (first, second):
                    service.stop()
                    service.start()
        wrong = load.wrong(cluster)
    failed = {
        f"{kind} {status}": number for (kind, status), number in load.statuses.items() if status not in (200, 201)
    }
    wrong += [f"{failed}"] if failed else []
    return told(wrong, f"{2 * Options.restarts} restarts, {len(load.calls)} requests, {sum(failed.values())} failed")


@fault("workers replaced by HUP, under load", "no failed request, POST included")
def hup(watch: IdleWatch) -> Outcome:
    """Replace the workers."""
    with deployment(watch) as (cluster, service):
        with Load(service.port, keep_alive=False) as load:
            for _ in range(Options.restarts):
                old = set(service.workers())
                service.process.send_signal(signal.SIGHUP)
                until(lambda: not old & set(service.workers()) and len(service.workers()) == 2)
        wrong = load.wrong(cluster)
    failed = {
        f"{kind} {status}": number for (kind, status), number in load.statuses.items() if status not in (200, 201)
    }
    wrong += [f"{failed}"] if failed else []
    return told(wrong, f"{Options.restarts} times, {len(load.calls)} requests, {sum(failed.values())} failed")


@fault("200 slow clients against nginx and the service", "healthy requests' p99 under 100 ms")
def slow(watch: IdleWatch) -> Outcome:
    """Let slow clients in."""
    need("nginx")
    need("slowhttptest")
    p99s = {}
    with deployment(watch) as (cluster, service), contextlib.ExitStack() as stack:
        nginx = Nginx(service.port)
        stack.callback(nginx.stop)
        for name, mode in (("headers", "-H"), ("body", "-B"), ("reading", "-X")):
            url = f"http://127.0.0.1:{nginx.port}/users" + ("?limit=1000" if mode == "-X" else "")
            seconds = str(max(Options.seconds // 2, 5))
            command = ["slowhttptest", mode, "-c", "200", "-r", "200", "-i", "2", "-l", seconds, "-u", url]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as attack:
                time.sleep(2)
                with Load(nginx.port, 2) as load:
                    attack.wait()
            p99s[name] = statistics.quantiles([seconds for _, _, _, seconds in load.calls], n=100)[98]
            if set(status for _, status in load.statuses) - {200, 201}:
                return False, f"slow {name}: {dict(load.statuses)}"
    measured = ", ".join(f"slow {name} {p99 * 1000:.0f} ms" for name, p99 in p99s.items())
    return max(p99s.values()) < 0.1, f"p99 with {measured}"


@fault("many requests", "the workers' memory grows by no more than 5 % after warm-up")
def memory(watch: IdleWatch) -> Outcome:
    """Serve many requests."""
    need("wrk")

    def serve(requests: int) -> int:
        """Serve about so many requests, and return how many they were."""
        done = 0
        while done < requests:
            url = f"http://127.0.0.1:{service.port}/users/1"
            said = subprocess.run(
                ["wrk", "-t1", "-c8", "-d10", url], capture_output=True, text=True, check=True
            ).stdout
            found = re.search(r"(\d+) requests in", said)
            assert found and "Non-2xx" not in said, said
            done += int(found[1])
        return done

    with deployment(watch) as (cluster, service):
        ask(service.port, "POST", "/users", user("memory"))
        serve(Options.requests // 20)
        before = [worker.memory_info().rss for worker in service.workers()]
        requests = serve(Options.requests)
        after = [worker.memory_info().rss for worker in service.workers()]
    growth = max(late / early - 1 for early, late in zip(before, after))
    mib = ", ".join(f"{early / 2**20:.1f} → {late / 2**20:.1f} MiB" for early, late in zip(before, after))
    return growth <= 0.05, f"{requests:,} requests, {mib}, {growth:+.1%}"


@click.command()
@click.argument("faults", nargs=-1, type=click.Choice(list(FAULTS)))
@click.option(
    "--seconds", default=30, show_default=True, type=click.IntRange(3), help="How long frozen, lock and slow last."
)
@click.option("--rounds", default=20, show_default=True, help="How often killed kills each of its four.")
@click.option("--restarts", default=10, show_default=True, help="How often rolling restarts each instance.")
@click.option("--requests", default=500_000, show_default=True, help="How many requests memory serves.")
def main(faults: tuple[str, ...], **options: int) -> None:
    """Try the faults, by default all, and print what was measured."""
    for name, value in options.items():
        setattr(Options, name, value)
    watch = IdleWatch()
    breaches = 0
    print("| fault | must hold | measured | |\n| --- | --- | --- | --- |", flush=True)
    for name in faults or FAULTS:
        what, must_hold, attempt = FAULTS[name]
        try:
            held, measured = attempt(watch)
        except NotTried as reason:
            held, measured = False, f"not tried: {reason}"
        except TimeoutError as error:
            held, measured = False, f"gave up: {error}"
        breaches += not held
        print(f"| {what} | {must_hold} | {measured} | {'ok' if held else 'breach'} |", flush=True)
    breaches += bool(watch.found)
    idle = "ok" if not watch.found else "breach"
    print(f"| during all of it | no transaction idle for 5 s | {watch.found} in {watch.looks} looks | {idle} |")
    sys.exit(breaches > 0)


if __name__ == "__main__":
    main()
