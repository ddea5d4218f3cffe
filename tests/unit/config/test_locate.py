import tomllib

from tollhouse.config.locate import locate

# DDD and SSS stand for TOML's long quotes, which would end this string.
TEXT = r"""
top = 1 # not = a.key
[server] # [not.a.header]
host = "a # b"
port = 3.14
[models."gpt-4.1"]
price = { input = 1, output = DDDxDDD, text = '#]' }
fallbacks = [ # ]
  "a]", 'b[',
  [1, 2], { c = "}" },
]
a."b c".'d' = 1
1.2 = true
[ spaced . "out" ]
basic = DDD
[no.header]
no = "key" ""\""DDD # " [
after = 2
literal = SSS
[no.header]
it's ''SSS
last = 1979-05-27T07:32:00Z
[[many]]
one = ""
two = ''
[[many]]
[un."\u0041\"."]
'-' = []""".replace("DDD", '"' * 3).replace("SSS", "'" * 3)


def line_of(text: str) -> int:
    return 1 + TEXT[: TEXT.index(text)].count("\n")


def test_each_key_and_table_is_found_on_its_line():
    tomllib.loads(TEXT)
    lines = locate(TEXT)

    assert lines[("top",)] == line_of("top =")
    assert lines[("server",)] == line_of("[server]")
    assert lines[("server", "host")] == line_of("host =")
    assert lines[("server", "port")] == line_of("port =")
    assert lines[("models", "gpt-4.1")] == line_of("[models")
    assert lines[("models", "gpt-4.1", "price")] == line_of("price =")
    assert lines[("models", "gpt-4.1", "fallbacks")] == line_of("fallbacks =")
    assert lines[("models", "gpt-4.1", "a", "b c", "d")] == line_of('a."b')
    assert lines[("models", "gpt-4.1", "1", "2")] == line_of("1.2")
    assert lines[("spaced", "out", "basic")] == line_of("basic =")
    assert lines[("spaced", "out", "after")] == line_of("after")
    assert lines[("spaced", "out", "last")] == line_of("last =")
    assert lines[("many", "two")] == line_of("two")
    assert lines[("un", 'A".', "-")] == line_of("'-'")


def test_text_inside_strings_comments_and_arrays_is_no_key():
    names = {part for path in locate(TEXT) for part in path}

    assert names.isdisjoint({"no", "not", "header", "c", "input", "output"})


def test_a_table_that_is_only_implied_has_the_line_that_first_implies_it():
    lines = locate("\n[a.b.c]\n[a]\n[x.y]\nk.l = 1\n")

    assert lines[("a", "b")] == 2
    assert lines[("a",)] == 3
    assert lines[("x",)] == 4
    assert lines[("x", "y", "k")] == 5


def test_an_empty_text_has_no_keys():
    assert locate("") == {}
    assert locate("# nothing") == {}
