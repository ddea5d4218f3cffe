"""The doctor: what it finds on a machine, in a configuration, and of a service that runs."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import engines
from harness.certificates import Authority
from harness.cli import Cli, without_logs
from harness.service import Service, free_port, model, provider
from tollhouse.testing import Behaviour, FakeProvider

ON_SQLITE = pytest.mark.engine("sqlite")
BODY = {"user_id": 101, "feature_slug": "summary", "model": "small", "user_message": "Hello.", "max_tokens": 50}


@pytest.fixture(autouse=True)
def no_logs() -> Iterator[None]:
    with without_logs():
        yield


@pytest.fixture
def alone(tmp_path: Path) -> Cli:
    file = tmp_path / "tollhouse.toml"
    file.write_text(f'[database]\nurl = "{engines.database_url(tmp_path / "tollhouse.db")}"\n')
    return Cli(file)


def test_the_doctor_asks_the_service_that_runs_which_models_it_leaves_alone(tmp_path, engine):
    with FakeProvider() as fake:
        config = provider("fake", "openai", fake.base_url("openai")) + model("small", "fake")
        breaker = "[breaker]\nconsecutive_failures = 2\nopen_s = 60\n"
        with Service(tmp_path, config + breaker) as service:
            service.tenant(42)
            url = f"http://127.0.0.1:{service.port}"
            # On PostgreSQL nothing tells where an instance serves but the configuration.
            known = tmp_path / "known.toml"
            known.write_text(service.config_file.read_text().replace("port = 0", f"port = {service.port}"))
            cli = Cli(known)

            well = cli.findings()
            fake.behave(Behaviour(status=500))
            answers = [service.complete(BODY | {"tenant_id": 42}).status for _ in range(2)]
            found = cli.findings()

            assert {status for status, _ in well.values()} <= {"ok", "warning"}
            if engine == "sqlite":
                said = f"process {service.process.pid} serves from the database, at {url}"
                assert well["owner"] == ("ok", said)
            assert well["service"] == ("ok", f"is ok at {url}")
            assert well["provider fake"] == ("ok", "can be reached")
            assert well["model small"][0] == "ok"
            assert "config" in well["model small"][1]
            assert not any(check.startswith("breaker") for check in well)
            assert found["service"] == ("ok", f"is degraded at {url}")
            status, message = found["breaker fake/small"]
            assert status == "warning"
            assert message.startswith("is open: 100% of 2 calls failed; the next probe may go in ")
            # The first call was tried twice, the second was not sent.
            assert answers == [503, 503]
            assert len(fake.receipts()) == 2
            assert re.search(r"^ok +database +", cli("doctor"), re.MULTILINE)
            assert service.terminate() == 0
            gone = cli.findings()
            assert gone.get("service", ("ok", ""))[0] == "ok"


@pytest.mark.parametrize("has_admin_port", [False, True], ids=["one port", "an admin port"])
def test_the_doctor_asks_a_service_with_tls_too(tmp_path: Path, engine: str, *, has_admin_port: bool):
    certificate, key = Authority(tmp_path).issue("server")
    admin_port = free_port()
    keys = f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n'
    keys += f"admin_port = {admin_port}\n" if has_admin_port else ""
    with Service(tmp_path, "", server=keys) as service:
        known = tmp_path / "known.toml"
        text = service.config_file.read_text().replace("[server]\nport = 0", f"[server]\nport = {service.port}")
        known.write_text(text)
        found = Cli(known).findings()

    assert found["certificate"][0] == "warning"
    if engine == "postgresql":
        url = f"https://127.0.0.1:{admin_port if has_admin_port else service.port}"
        assert found["service"] == ("ok", f"is ok at {url}")
    else:
        # By the way that is the commands' own.
        status, message = found["service"]
        assert (status, message.startswith("is ok at http://127.0.0.1:")) == ("ok", True)


@ON_SQLITE
def test_the_doctor_tells_of_a_service_that_owns_the_database_and_does_not_answer(tmp_path):
    with Service(tmp_path, "") as service:
        service.process.send_signal(signal.SIGSTOP)
        try:
            status, message = Cli(service.config_file).findings(exit_code=1)["service"]
        finally:
            service.process.send_signal(signal.SIGCONT)

    assert status == "failed"
    assert message == f"does not answer at http://127.0.0.1:{service.port}: timed out"


@ON_SQLITE
def test_the_doctor_changes_nothing(alone):
    before = set(alone.file.parent.iterdir())

    assert alone.findings()["database"][0] == "ok"

    assert set(alone.file.parent.iterdir()) == before


@ON_SQLITE
def test_the_doctor_tells_each_thing_that_cannot_work_and_what_to_do(tmp_path):
    file = tmp_path / "tollhouse.toml"
    port = free_port()
    secret = '[auth]\nadmin_key = "env:NOT_SET_ANYWHERE"\n'
    away = f'[providers.away]\nkind = "openai"\nbase_url = "http://127.0.0.1:{port}/v1"\n'
    unpriced = model("my-own", "away", price=None, fallbacks=["nobody"])
    file.write_text(f'[database]\nurl = "sqlite:///{tmp_path / "t.db"}"\n{secret}{away}{unpriced}')
    (tmp_path / "t.db").write_bytes(b"no database" * 500)
    cli = Cli(file)

    found = cli.findings(exit_code=1)

    assert found["secrets"][0] == "failed"
    assert "NOT_SET_ANYWHERE is not set" in found["secrets"][1]
    assert found["database"][0] == "failed"
    assert found["provider away"][0] == "failed"
    assert found["model my-own"] == ("warning", "its fallback nobody is not configured")
    text = cli.run("doctor").stdout
    assert "has no price, so calls of it are refused" in text
    assert "→ check [providers.away] base_url" in text


@ON_SQLITE
def test_the_doctor_tells_of_a_pepper_that_is_gone(alone):
    alone("tenant", "create", "42")
    alone.file.with_name("tollhouse.db.pepper").unlink()

    assert alone.findings(exit_code=1)["pepper"][0] == "failed"


@ON_SQLITE
def test_the_doctor_tells_what_is_wrong_with_a_configuration(tmp_path):
    file = tmp_path / "tollhouse.toml"
    file.write_text("[server]\nprot = 1\nport = 'x'\n")

    result = Cli(file).run("doctor")

    assert result.exit_code == 1
    assert f"FAILED   configuration  {file}:2: [server] prot: unknown key" in result.stdout
    assert f"{file}:3: [server] port" in result.stdout
