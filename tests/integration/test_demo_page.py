"""The demo's page at ``/demo``: in a real Chromium, and to whoever should not have it."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from harness.browser import Tab, chromium
from harness.cable import Cable
from harness.service import Service, limits, model, provider, serving
from tollhouse.testing import Behaviour, FakeProvider

# The demo has an embedded database, always.
pytestmark = pytest.mark.engine("sqlite")

TEXT = "# Sales\n\nTuesday was **good**: 1336 USD.\n\n- coffees sold best\n- <b>cakes</b> did not"
JOBS = "[jobs]\npoll_s = 0.05\n"
QUEUED, STARTED, COMPLETED = "ai.job.queued", "ai.job.started", "ai.report.completed"


class DemoService(Service):
    """The service that the demo runs."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.program = ["-m", "tollhouse.cli.demo.service"]


@pytest.fixture(scope="module")
def fake():
    with FakeProvider() as fake:
        yield fake


@pytest.fixture(scope="module")
def wire(fake):
    """The way from the service to its provider."""
    with Cable(fake.port) as wire:
        yield wire


@pytest.fixture(scope="module")
def service(engine, fake, wire, tmp_path_factory):
    url = fake.base_url("anthropic").replace(str(fake.port), str(wire.port))
    config = provider("anthropic", "anthropic", url) + model("claude-haiku-4-5", "anthropic") + limits() + JOBS
    with DemoService(tmp_path_factory.mktemp("demo"), config) as service:
        service.tenant(42, budget_usd=10)
        service.tenant(43, budget_usd=0.001)
        yield service


@pytest.fixture(scope="module")
def line(service):
    """The way from the browser to the service."""
    with Cable(service.port) as line:
        yield line


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser, fake, wire, line):
    fake.reset()
    fake.behave(Behaviour(content=TEXT, input_tokens=120, output_tokens=30))
    tab = Tab(browser)
    tab.page.goto(f"http://127.0.0.1:{line.port}/demo")
    yield tab
    wire.release()
    tab.close()


def press(tab, name="Generate report"):
    tab.page.get_by_role("button", name=name).click()


def expect_state(tab, state):
    expect(tab.page.locator("#steps")).to_have_attribute("data-state", state)


def expect_events(tab, *types):
    expect(tab.page.locator("#events b")).to_have_text(types)


def test_a_report_is_asked_for_and_watched_and_shown_with_its_cost(tab, service, fake, line):
    page = tab.page
    page.get_by_label("Example").select_option("A week in a bakery")
    page.get_by_label("Item").first.fill("rye loaves")
    press(tab)

    expect_state(tab, "complete")
    expect_events(tab, QUEUED, STARTED, COMPLETED)
    expect(page.locator("#events span")).to_have_text(["queued", "processing", "complete"])
    expect(page.locator("#connection")).to_have_text("live")
    report = page.get_by_role("region", name="Report")
    expect(report.get_by_role("heading", name="Sales")).to_be_visible()
    expect(report.locator("strong")).to_have_text("good")
    expect(report.get_by_role("listitem")).to_have_text(["coffees sold best", "<b>cakes</b> did not"])
    (receipt,) = fake.receipts()
    for asked in ("Summarise the sales of last week.", "- 1240 rye loaves for 3720 USD", "Total: 7785 USD"):
        assert asked in str(receipt.request)
    row = service.rows(tenant_id=42, feature_slug="report-generation")[-1]
    assert row["cost_nano_usd"] == 120 * 800 + 30 * 4000
    expect(page.get_by_role("status")).to_have_text("Complete. It cost $0.000216.")
    told = page.locator("#receipt")
    for text in ("$0.000216", "120 read, 30 written", f"no. {row['id']}, settled", row["request_id"]):
        expect(told).to_contain_text(text)
    spent = service.budget(42)["posted_nano_usd"]
    expect(page.locator("#budget-42")).to_contain_text(f"${(10 * 10**9 - spent) / 10**9:.9f}".rstrip("0"))
    assert tab.complaints == []
    assert {urlsplit(url).netloc for url in tab.asked} == {f"127.0.0.1:{line.port}"}
    assert not [said for said in tab.heard if "th_" in said], "no key has come to the browser"


def test_a_budget_that_is_too_small_is_told_as_what_it_is(tab, service, fake):
    press(tab, "Without a budget")

    expect_state(tab, "failed")
    expect_events(tab, QUEUED, STARTED, "ai.job.failed")
    expect(tab.page.locator("#report")).to_contain_text("ai_budget_exceeded: ")
    expect(tab.page.locator("#report")).to_contain_text("tenant 43 has $0.001 left of its $0.001")
    expect(tab.page.locator("#budget-43")).to_contain_text("$0.001 of $0.001")
    expect(tab.page.get_by_role("status")).to_have_text("Failed: it does not fit what is left of the budget.")
    assert fake.receipts() == []
    assert service.rows(tenant_id=43) == []
    assert tab.complaints == []


def test_a_stream_that_is_cut_goes_on_where_it_was(tab, wire, line):
    wire.hold()
    press(tab)
    expect_state(tab, "processing")
    carried = line.carried
    line.cut()
    expect(tab.page.locator("#connection")).to_have_text("reconnecting")
    wire.release()

    expect_state(tab, "complete")
    expect_events(tab, QUEUED, STARTED, COMPLETED)
    expect(tab.page.locator("#connection")).to_have_text("live")
    assert line.carried > carried
    assert len([url for url in tab.asked if "/demo/token" in url]) == 1, "the token is good still"


def test_a_token_that_has_ended_is_followed_by_another(tab, service, wire):
    wanted = {"tenant_id": 42, "user_id": 101, "ttl_s": 1}
    brief = service.request("POST", "/events/token", wanted).body
    tab.page.route("**/demo/token", lambda route: route.fulfill(body=brief, content_type="application/json"), times=1)
    wire.hold()
    press(tab)
    expect_state(tab, "processing")
    # It may have been asked for already, where that took longer than the first one lasts.
    while len([url for url in tab.asked if "/demo/token" in url]) < 2:
        tab.page.wait_for_timeout(20)
    wire.release()

    expect_state(tab, "complete")
    expect_events(tab, QUEUED, STARTED, COMPLETED)


@pytest.mark.parametrize("looks", [{"viewport": {"width": 360, "height": 640}}, {"color_scheme": "dark"}])
def test_the_page_fits_and_each_field_has_a_name(browser, service, looks):
    tab = Tab(browser, **looks)
    page = tab.page
    page.goto(f"http://127.0.0.1:{service.port}/demo")
    expect(page.locator("#budget-43")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    nameless = (
        "[...document.querySelectorAll('input, select')].filter((each) => !each.labels.length && !each.ariaLabel)"
    )
    assert page.evaluate(f"{nameless}.length") == 0
    # All of it is reached by the keyboard, and what is typed wrong is said before anything is asked.
    page.get_by_label("Sold").first.fill("")
    page.get_by_label("Period").press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Sold"
    assert not [url for url in tab.asked if url.endswith("/demo/reports")]
    assert tab.complaints == []
    tab.close()


def ask(service, method, path, body=None, **headers):
    return service.request(method, path, body, key=None, **headers)


def test_other_pages_and_other_names_get_nothing(service):
    assert ask(service, "GET", "/demo").status == 200
    assert ask(service, "GET", "/demo", host="localhost:1").status == 200
    for named in ({"host": "rebound.example.com"}, {"origin": "https://evil.example.com"}, {"origin": "null"}):
        refused = ask(service, "POST", "/demo/token", {"tenant_id": 42}, **named)
        assert (refused.status, refused.code) == (403, "ai_forbidden")
        assert "access-control-allow-origin" not in refused.headers


def test_every_answer_of_the_page_allows_nothing_from_elsewhere(service):
    for path in ("/demo", "/demo/page.js", "/demo/budgets", "/demo/nothing"):
        policy = ask(service, "GET", path).headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in policy
        assert "http" not in policy


def test_bad_requests_are_told_what_was_expected(service):
    def refused(method, path, body=None):
        reply = ask(service, method, path, body)
        return reply.status, reply.message

    sale = {"item": "tea", "sold": 1, "revenue": 2.5}
    order = {"tenant_id": 42, "period": "May", "sales": [sale]}
    assert refused("POST", "/demo") == (405, "POST is not served here; expected GET")
    assert refused("GET", "/demo/reports") == (405, "GET is not served here; expected POST")
    assert refused("GET", "/demo/nothing") == (404, "there is nothing at /demo/nothing; the page is at /demo")
    assert refused("POST", "/demo/token", {"tenant_id": 44})[0] == 422
    status, message = refused("POST", "/demo/reports", order | {"sales": [sale | {"sold": -1}]})
    assert (status, message.split(":")[0]) == (422, "sales[0].sold")
    assert refused("POST", "/demo/reports", order | {"sales": []})[0] == 422
    assert refused("POST", "/demo/reports", order | {"period": "x" * 20_000})[0] == 422
    assert refused("GET", "/demo/reports/42/job_0") == (404, "there is no job job_0, or it is kept no longer")
    assert refused("GET", "/demo/reports/44/job_0")[0] in {403, 404}


def test_a_plain_service_has_no_such_page(engine, tmp_path):
    with serving(tmp_path, "") as service:
        for path in ("/demo", "/demo/", "/demo/page.js", "/demo/budgets"):
            assert ask(service, "GET", path).status in {401, 404}
        assert service.request("GET", "/demo").status == 404
