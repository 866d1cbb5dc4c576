import pytest

from exo.chat import ChatRequest, Message, Tool, ToolCall
from exo.errors import BadRequest, EngineFailed
from exo.generation.templates import ChatTemplate, Rendered, soft_switch

PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
SWITCHED = PLAIN + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
ALWAYS = PLAIN + "<think>{{ '\n' }}"
TOOLED = "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}" + PLAIN


def ask(*messages: Message, **fields: object) -> ChatRequest:
    return ChatRequest(model="m", messages=messages or (Message("user", "Hi"),), **fields)  # type: ignore[arg-type]


def test_the_whole_conversation_is_rendered() -> None:
    turns = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes?"))
    rendered = ChatTemplate(PLAIN).render(ask(*turns, Message("user", "Bye")))
    assert rendered.prompt == "[system] Be brief.\n[user] Hi\n[assistant] Yes?\n[user] Bye\n[assistant]"
    assert not rendered.opened
    assert not rendered.may_think


def test_thinking_is_switched_where_the_template_can() -> None:
    template = ChatTemplate(SWITCHED)
    assert template.render(ask()).prompt.endswith("[assistant]")
    assert template.render(ask(thinking=True)).prompt.endswith("[assistant]")
    assert template.render(ask(thinking=False)).prompt.endswith("[assistant]<think></think>")
    assert [template.render(ask(thinking=wish)).may_think for wish in (None, True, False)] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "thinks", "shown"),
    [
        ("/no_think Hi", False, "Hi"),
        ("Hi /no_think", False, "Hi"),
        ("Hi /think\n", True, "Hi"),
        ("/no_think", False, ""),
        ("Hi /think /no_think", False, "Hi /think"),
        ("what does /no_think mean?", None, "what does /no_think mean?"),
        ("a/think", None, "a/think"),
    ],
)
def test_a_word_in_the_question_switches_the_thinking(text: str, thinks: bool | None, shown: str) -> None:
    template = ChatTemplate(SWITCHED)
    rendered = template.render(ask(Message("user", text)))
    assert rendered.prompt.startswith(f"[user] {shown}\n[assistant]")
    assert rendered.may_think == (thinks is not False)
    assert soft_switch([Message("user", text)]) is thinks


def test_the_last_word_counts_and_the_request_more() -> None:
    turns = (Message("user", "Hi /no_think"), Message("assistant", "/think"), Message("user", "Why? /think"))
    template = ChatTemplate(SWITCHED)
    assert template.render(ask(*turns)).prompt == "[user] Hi\n[assistant] /think\n[user] Why?\n[assistant]"
    assert not template.render(ask(*turns, thinking=False)).may_think


def test_a_model_without_a_switch_is_shown_the_words() -> None:
    assert "Hi /no_think" in ChatTemplate(ALWAYS).render(ask(Message("user", "Hi /no_think"))).prompt


def test_an_opened_thought_is_told() -> None:
    assert ChatTemplate(ALWAYS).render(ask()) == Rendered(
        "[user] Hi\n[assistant]<think>\n", opened=True, may_think=True
    )


def test_a_fixed_form_comes_without_a_thought_unless_one_is_wished_for() -> None:
    schema = {"type": "integer"}
    assert ChatTemplate(SWITCHED).render(ask(json_schema=schema)).prompt.endswith("<think></think>")
    assert ChatTemplate(SWITCHED).render(ask(json_schema=schema, thinking=True)).may_think
    assert ChatTemplate(ALWAYS).render(ask(json_schema=schema)).opened


def test_a_template_is_given_the_thoughts_of_earlier_answers() -> None:
    source = PLAIN.replace("{{ m.content }}", "({{ m.reasoning_content }}) {{ m.content }}")
    turns = (Message("user", "Hi"), Message("assistant", "Yes?", reasoning="a guest"), Message("user", "Bye"))
    assert "[assistant] (a guest) Yes?" in ChatTemplate(source).render(ask(*turns)).prompt


@pytest.mark.parametrize(
    ("source", "thinking", "reason"), [(ALWAYS, False, "always thinks"), (PLAIN, True, "does not think")]
)
def test_a_switch_the_model_does_not_have_is_refused(source: str, thinking: bool, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as refused:
        ChatTemplate(source).render(ask(thinking=thinking))
    assert refused.value.param == "enable_thinking"


def test_what_the_model_does_anyway_may_be_asked_for() -> None:
    assert ChatTemplate(PLAIN).render(ask(thinking=False))
    assert ChatTemplate(ALWAYS).render(ask(thinking=True))


def test_tools_are_rendered_in_order_and_unescaped() -> None:
    tool = Tool("find", "Finds <b>.", {"type": "object", "properties": {"z": {}, "a": {}}})
    prompt = ChatTemplate(TOOLED).render(ask(tools=(tool,))).prompt
    assert prompt.startswith(
        '{"type": "function", "function": {"name": "find", "description": "Finds <b>.", '
        '"parameters": {"type": "object", "properties": {"z": {}, "a": {}}}}}\n'
    )


def test_tools_are_refused_where_the_template_has_no_place_for_them() -> None:
    with pytest.raises(BadRequest) as refused:
        ChatTemplate(PLAIN).render(ask(tools=(Tool("find"),)))
    assert refused.value.param == "tools"


def test_calls_and_results_are_rendered() -> None:
    source = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.id }}:{{ c.function.name }}"
        "({{ c.function.arguments.a }}){% endfor %}{{ m.tool_call_id or '' }}{{ m.content }};{% endfor %}"
    )
    called = Message("assistant", "", tool_calls=(ToolCall(0, "call_1", "find", '{"a": 7}'),))
    prompt = ChatTemplate(source).render(ask(called, Message("tool", "found", tool_call_id="call_1"))).prompt
    assert prompt == "call_1:find(7);call_1found;"


def test_a_template_refuses_by_its_own_words() -> None:
    with pytest.raises(BadRequest, match="roles must alternate") as refused:
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render(ask())
    assert refused.value.param == "messages"


def test_a_broken_template_is_the_models_fault() -> None:
    with pytest.raises(EngineFailed, match="chat template is broken"):
        ChatTemplate("{% for %}")


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ messages.append('more') }}",
    ],
)
def test_a_template_cannot_reach_out_of_its_sandbox(attack: str) -> None:
    with pytest.raises(BadRequest, match="refuses this"):
        ChatTemplate(attack).render(ask())
