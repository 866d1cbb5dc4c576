"""Chat templates come with models' files, from anybody. Whatever is in one, it reaches nothing of this
machine, and it ends, soon and without much memory."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import Environment
from jinja2.ext import loopcontrols

from exo.chat import ChatRequest, Message, Tool
from exo.errors import BadRequest, EngineFailed
from exo.generation import sandbox
from exo.generation.templates import ChatTemplate
from exo.store.catalogue import BUNDLED

REQUEST = ChatRequest(
    model="m", messages=(Message("system", "Be brief."), Message("user", "hi {{ 7*7 }}{% raw %}"))
)
PATIENCE = 20.0
ROOM = 1 << 30


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """More than a gigabyte at once cannot be had, so that a bomb is found out and does no harm."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ ''|attr('_'~'_class_'~'_') }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ messages|map('attr', '__class__')|list }}",
    "{{ messages|groupby('__class__') }}",
    "{{ messages|sum(attribute='__class__') }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{{ ''.format.__self__.__class__ }}",
    "{% set f = '{0.__class__}'.format %}{{ f(1) }}",
    "{{ ['{0.__class__}']|map('format', 1)|list }}",
    "{{ '%s'|format(''.__class__) }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__code__.co_consts }}",
    "{{ strftime_now.__globals__['os'].system('true') }}",
    "{{ strftime_now.__closure__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.mro() }}",
    "{{ dict.__subclasses__() }}",
    "{{ range.__self__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ config.items() }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ request.application.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% for a in [1] %}{{ loop.__class__ }}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{{ (1).__class__.__base__.__subclasses__() }}",
    "{{ {}.__class__ }}",
    "{{ messages[0].__class__.__init__ }}",
    "{{ ().__class__.__bases__[0] }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import system %}",
    "{% extends '/etc/passwd' %}",
    "{{ messages.append(1) }}",
    "{{ messages.clear() }}",
    "{{ messages[0].update({'role': 'root'}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ [].append.__self__.__class__ }}",
    "{% set a = namespace() %}{% set a.__class__ = 1 %}{{ a.__class__ }}",
    "{{ namespace(**{'__class__': 1}).__init__ }}",
    "{{ ''.__doc__ }}{{ ''.__reduce_ex__(2) }}",
    "{% debug %}",
    "{{ a budget }}",
]
GIVEN_AWAY = (
    "<class",
    "<built-in",
    "<function",
    "<module",
    "__init__",
    "root:",
    "subclasses",
    "os.py",
    "jinja2",
)

LOOP = "{%% for a in range(99999) %%}%s{%% endfor %%}"
BOMBS = [
    "{% for a in range(10**9) %}{% endfor %}",
    LOOP % (LOOP % (LOOP % "")),
    LOOP % (LOOP % "text that is said again and again"),
    "{% for a in 'ab' recursive %}{{ loop('ab') }}{{ loop('ab') }}{% endfor %}",
    "{% for a in range(9) recursive %}{% if loop.depth < 30 %}{{ loop(range(9)) }}{% endif %}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
    "{{ 'a' * 10**9 }}",
    "{{ 'a' * 999999999 }}",
    "{{ 999999999 * ['a'] }}",
    "{{ ('a',) * 10**10 }}",
    "{{ 10 ** (10 ** 9) }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set n = namespace(a=99999999999) %}{% for i in range(99) %}{% set n.a = n.a * n.a %}{% endfor %}",
    "{% set n = namespace(a='a') %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "{% set n = namespace(a='a') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "{% set n = namespace(a='a') %}{% for i in range(99) %}{% set n.a = n.a * 9 %}{% endfor %}",
    "{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a }}",
    "{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "{% set n = namespace(a={}) %}{% for i in range(99) %}{% set n.a = {1: n.a, 2: n.a} %}{% endfor %}"
    "{{ n.a|tojson }}",
    "{% set n = namespace(a=()) %}{% for i in range(99) %}{% set n.a = (n.a, n.a) %}{% endfor %}"
    "{{ n.a|string }}",
    "{% set n = namespace(a=1) %}{% for i in range(99) %}{% set n.a = namespace(a=[n.a, n.a]) %}{% endfor %}"
    "{{ n.a }}",
    "{% set n = namespace(a='a') %}"
    "{% for i in range(99) %}{% set n.a %}{{ n.a }}{{ n.a }}{% endset %}{% endfor %}",
    "{% set b = 'a' * 999999 %}" + LOOP % "{{ b }}",
    "{% set a = 'a' * 999999 %}{{ a|replace('a', a) }}",
    "{% set a = 'a' * 999999 %}{{ a.replace('', a) }}",
    "{% set a = 'a' * 999999 %}{{ a.join(a) }}",
    "{% set a = 'a' * 999999 %}{{ a|join(a) }}",
    "{% set a = 'a' * 999999 %}{{ range(99999)|join(a) }}",
    "{% set a = 'a' * 999999 %}{{ a.join(range(99999)|map('string')) }}",
    "{% set a = '\n' * 999999 %}{{ a|indent(999999) }}",
    "{% set a = '\n' * 999999 %}{{ a|indent(a) }}",
    "{% set a = '\t' * 999999 %}{{ a.expandtabs(999999) }}",
    "{% set a = 'a ' * 999999 %}{{ a|wordwrap(1, wrapstring=a) }}",
    "{% set a = '%s' * 99999 %}{{ a % (('a' * 99999,) * 99999) }}",
    "{% set a = '{0}' * 99999 %}{{ a.format('a' * 99999) }}",
    "{% set a = '%(a)s' * 99999 %}{{ a|format(a='a' * 99999) }}",
    "{{ 'a'|center(999999999) }}",
    "{{ 'a'.center(999999999) }}",
    "{{ 'a'.ljust(999999999) }}",
    "{{ '1'.zfill(999999999) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ '%999999999d'|format(1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '{:>{}}'.format(1, 999999999) }}",
    "{{ '{a:>999999999}'.format_map({'a': 1}) }}",
    "{{ (5).to_bytes(999999999, 'big') }}",
    "{{ [1]|batch(999999999, 'a')|list }}",
    "{{ [1]|slice(999999999)|list }}",
    "{{ {'a': [1] * 99999}|tojson(indent=999999) }}",
    "{{ lipsum(n=999999999) }}",
    "{{ 'aaaa'.translate({97: 'a' * 99999}) }}",
    "{{ messages|map('replace', 'i', 'i' * 999999999)|list }}",
    "{% filter replace('a', 'a' * 999999999) %}a{% endfilter %}",
    "{% set a = ['a' * 999999] * 99999 %}{{ a }}",
    "{% set a = ['a' * 999999] * 99999 %}{{ a|join }}",
    "{% set a = ['a' * 999999] * 99999 %}{{ a ~ '' }}",
    "{% set a = ['a' * 999999] * 99999 %}{{ '%s' % (a,) }}",
    "{% set a = [[1] * 9999] * 9999 %}{{ a|sum(start=[]) }}",
    "{% for a in messages %}{% set messages = messages + messages %}" + LOOP % (LOOP % "a") + "{% endfor %}",
]  # fmt: skip


@pytest.mark.parametrize("source", ESCAPES)
def test_a_template_reaches_nothing(source: str) -> None:
    try:
        said = ChatTemplate(source).render(REQUEST).prompt
    except (BadRequest, EngineFailed):
        return
    assert not any(part in said for part in GIVEN_AWAY), said


@pytest.mark.parametrize("source", BOMBS)
def test_a_template_ends(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 1.0)
    began = time.perf_counter()
    with pytest.raises((BadRequest, EngineFailed)) as failed:
        ChatTemplate(source).render(REQUEST)
    assert time.perf_counter() - began < PATIENCE
    assert "MemoryError" not in failed.value.message
    assert "template" in failed.value.message


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
        "{{ 1" + " + 1" * 60_000 + " }}",
        "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
        "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
        "{{ " + "[" * 3000 + "]" * 3000 + " }}",
        "{{ 'a'" + "|trim" * 40_000 + " }}",
        "x" * 2_000_000,
        "{{ " + "9" * 9000 + " }}",
        "{{",
        "{% set a b %}",
        "\0{{ \0 }}",
    ],
    ids=range(11),
)
def test_a_source_that_is_none_is_an_error(source: str) -> None:
    with pytest.raises((BadRequest, EngineFailed), match="template"):
        ChatTemplate(source).render(REQUEST)


@pytest.mark.parametrize(
    "source",
    ["{{ none + 1 }}", "{{ 1 // 0 }}", "{{ messages[9].role }}", "{{ {}|dictsort(by=1) }}", "{{ 5() }}"],
)
def test_a_fault_is_an_error_that_names_the_template(source: str) -> None:
    with pytest.raises((BadRequest, EngineFailed), match="template"):
        ChatTemplate(source).render(REQUEST)


def test_what_a_conversation_says_is_no_template() -> None:
    said = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}").render(REQUEST).prompt
    assert said == "Be brief.hi {{ 7*7 }}{% raw %}"


USED = [
    (BUNDLED / "exo-demo" / "chat_template.jinja").read_text(encoding="utf-8"),
    "{% for m in messages if m.role != 'system' %}{{ loop.index0 }}/{{ loop.length }}"
    "{% if not loop.last %},{% endif %}{{ loop.previtem.role if loop.previtem }}{% else %}none{% endfor %}",
    "{% set ns = namespace(found=false, text='') %}{% for m in messages[::-1] %}"
    "{% if m.role == 'user' %}{% set ns.found = true %}{% break %}{% endif %}{% endfor %}{{ ns.found }}",
    "{%- for k, v in {'a': [1, 2], 'b': (3,)}.items() %}{{ k ~ ':' ~ v|join('-') ~ ';' }}{% endfor %}",
    "{{ messages|map(attribute='content')|join('|') }}"
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}",
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}"
    "{{ m(1) }}{% call m(3) %}x{% endcall %}",
    "{{ '%s is %d' % ('a', 3) }}{{ '{:>5}|{}'.format('a', 'b') }}{{ 'a'.center(9) }}{{ 'x' * 20 }}",
    "{{ messages[0].content.split(' ')[-1].strip().replace('f', 'g').upper() }}{{ 'a\nb'|indent(2) }}",
    "{{ [3, 1, 2]|sort|reverse|list }}{{ range(5)|batch(2)|list }}{{ (1, 2) + (3,) }}{{ 7 // 2 ** 2 % 3 }}",
    "{% for g in messages|groupby('role') %}{{ g.grouper }}={{ g.list|length }};{% endfor %}{{ {'a': 1} }}",
    "{% for a in [[1, [2]], 3] recursive %}{% if a is iterable %}({{ loop(a) }}){% else %}"
    "{{ a }}{% endif %}{% endfor %}",
    "{% filter upper %}{{ messages[1].role }}{% endfilter %}{% set x %}a{{ 1 }}{% endset %}"
    "{{ x }}{{ nothing }}",
]


@pytest.mark.parametrize("source", USED, ids=range(len(USED)))
def test_templates_say_what_they_say_in_plain_jinja(source: str) -> None:
    plain = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    messages = [{"role": each.role, "content": each.content} for each in REQUEST.messages]
    wanted = plain.from_string(source).render(messages=messages, tools=None, add_generation_prompt=True)
    assert ChatTemplate(source).render(REQUEST).prompt == wanted


def test_the_longest_conversations_are_within_the_bounds() -> None:
    """Eight million characters, which is the largest body, in few messages and in many."""
    source = (BUNDLED / "exo-demo" / "chat_template.jinja").read_text(encoding="utf-8")
    for count, length in ((2, 4_000_000), (20_000, 400)):
        messages = tuple(Message("user", "a" * length) for _ in range(count))
        request = ChatRequest(model="m", messages=messages)
        assert len(ChatTemplate(source).render(request).prompt) > count * length


def test_large_tools_are_within_the_bounds() -> None:
    source = (
        "{% if tools %}{% for tool in tools %}{{ tool|tojson(indent=4) }}<tool_call>{% endfor %}{% endif %}"
    )
    schema = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(1000)}}
    request = ChatRequest(
        model="m",
        messages=REQUEST.messages,
        tools=tuple(Tool(f"t{n}", "does", schema) for n in range(100)),
    )
    template = ChatTemplate("{{ '<tool_call>\n{\"name\"' }}" + source)
    assert len(template.render(request).prompt) > 5_000_000
