"""``tollhouse notifier``: a process that does nothing but tell events, beside those that take calls."""

import contextlib

import pytest

from harness.following import Stream, subjects, tell
from harness.receiver import Receiver
from harness.service import ADMIN_KEY, Service, eventually, refused, serving


class Notifier(Service):
    """A ``tollhouse notifier`` process."""

    command = "notifier"


CONFIG = '[webhooks]\nallow_networks = ["127.0.0.0/8"]\npoll_s = 0.05\n'


@pytest.mark.engine("postgresql")
def test_followers_and_webhooks_are_served_by_any_number_of_processes(engine, tmp_path):
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(serving(tmp_path, CONFIG))
        notifiers = []
        for number in (1, 2):
            (tmp_path / str(number)).mkdir()
            notifiers.append(stack.enter_context(Notifier(tmp_path / str(number), CONFIG, url=service.database_url)))
        receiver = stack.enter_context(Receiver())
        tenant = service.tenant()
        service.admin("POST", "/admin/webhooks", {"url": receiver.url, "tenant_id": tenant})
        streams = [stack.enter_context(Stream(each, tenant_id=tenant)) for each in (service, *notifiers)]
        tell(service, *range(50), tenant_id=tenant)
        told = [stream.take(50) for stream in streams]
        assert subjects(told[0]) == [str(number) for number in range(50)]
        assert told[1] == told[2] == told[0]
        # From one process to another, a position is the same.
        tell(service, "next", tenant_id=tenant)
        with Stream(notifiers[1], tenant_id=tenant, last=streams[1].last_event_id) as again:
            assert subjects(again.take(1)) == ["next"]
        receiver.wait_for(51)
        ended = "SELECT 1 FROM ai_webhook_deliveries WHERE state = 'delivered'"
        eventually(lambda: len(service.query(ended)) == 51)
        assert len({each.headers["webhook-id"] for each in receiver.received}) == len(receiver.received) == 51
        # Keys are known there soon after they were made; calls and administration are not served.
        key = service.new_key(tenants=[tenant])["key"]
        eventually(lambda: notifiers[0].request("POST", "/events/token", {}, key=key).status == 200)
        assert notifiers[0].request("GET", "/readyz").status == 200
        for method, path in (("POST", "/ai/complete"), ("GET", "/admin/tenants"), ("GET", "/docs")):
            assert notifiers[0].request(method, path, {}, key=ADMIN_KEY).status == 404


@pytest.mark.engine("sqlite")
def test_an_embedded_database_has_no_process_for_it(engine, tmp_path):
    service = Service(tmp_path, CONFIG)
    message = refused(service.run("notifier"))
    assert "an embedded database has one process, whose `tollhouse serve` tells events itself" in message
