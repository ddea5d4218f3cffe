from tollhouse.cli.demo.screen import Screen, Waiting


def test_steps_are_numbered_and_what_belongs_to_them_is_indented(capsys):
    screen = Screen()
    screen.step("First")
    screen.say("one\n\ntwo")
    screen.step("Second")
    screen.request("GET /x", None)
    screen.answer(402, 0.25, b'{"error":"ai_budget_exceeded","cost_usd":0.10}')

    assert capsys.readouterr().out == (
        "\n1. First\n   one\n\n   two\n"
        "\n2. Second\n   → GET /x\n   ← 402 Payment Required (after 0.25 s)\n"
        '   {\n     "error": "ai_budget_exceeded",\n     "cost_usd": 0.10\n   }\n'
    )


def test_waiting_is_two_lines_where_nobody_watches(capsys):
    waiting = Waiting("loading", is_terminal=False)
    waiting.tick(0.5)
    waiting.tick(1.5)
    waiting.done("loaded")

    assert capsys.readouterr().out == "   loading …\n   loaded (after 1.5 s)\n"


def test_waiting_is_one_line_that_changes_on_a_terminal(capsys):
    waiting = Waiting("loading", is_terminal=True)
    waiting.tick(0.5)
    waiting.tick(1.5)
    waiting.done("loaded")

    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert [part.split("loading")[-1] for part in shown.split("\r")[1:3]] == [" … 0.5 s", " … 1.5 s"]
    assert shown.endswith("loaded (after 1.5 s)\n")


def test_waiting_without_a_word_is_one_line_where_nobody_watches(capsys):
    waiting = Waiting("", is_terminal=False)
    waiting.tick(0.5)
    waiting.done("queued")

    assert capsys.readouterr().out == "   queued (after 0.5 s)\n"


def test_a_status_is_told_without_its_body(capsys):
    Screen().status(202, 0.01)

    assert capsys.readouterr().out == "   ← 202 Accepted (after 0.01 s)\n"
