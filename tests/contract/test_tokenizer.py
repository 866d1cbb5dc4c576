"""The contract of `engine.Tokenizer`, put to every kind of responder there is."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from tokenizers import Tokenizer as HuggingFaceTokenizer

from exo.chat import ChatRequest, Message, SoFar, Tool, ToolCall
from exo.engine import SpellRequest, Tokenizer, spelled
from exo.errors import BadRequest
from exo.generation.folder import texts
from exo.generation.reading import prompt_of
from exo.generation.templates import ChatTemplate
from exo.store.catalogue import BUNDLED
from tests.contract.subjects import SUBJECTS, Ground, Subject
from tests.doubles import answer, finished

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOLDER = BUNDLED / "exo-demo"
HI = Message("user", "Hi, fünf 🙂!")
TEXTS = ["a", "What is 145 + 278?", " two  spaces\n\n", HI.content, "<|im_start|>user\nHi<|im_end|>\n<think>"]
TALK = (
    Message("system", "Be brief."),
    Message("user", "What is 12 + 7?"),
    Message("assistant", "", (ToolCall(0, "c", "add", '{"a": 12, "b": 7}'),)),
    Message("tool", "19", (), "c"),
)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
CHATS = {
    "plain": ChatRequest(model="", messages=(HI,)),
    "without a thought": ChatRequest(model="", messages=(HI,), thinking=False),
    "with a thought": ChatRequest(model="", messages=(HI,), thinking=True),
    "with calls": ChatRequest(model="", messages=TALK, tools=(Tool("add", "Adds.", SCHEMA),)),
    "begun": ChatRequest(model="", messages=(HI,), so_far=SoFar("1 2 3"), thinking=False),
    "of a form": ChatRequest(model="", messages=(HI,), json_schema=SCHEMA),
}


@pytest_asyncio.fixture(params=SUBJECTS, scope="module", loop_scope="module")
async def subject(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    build: Path,
    file_for: Callable[..., Path],
) -> AsyncIterator[Subject]:
    ground = Ground(tmp_path_factory.mktemp(request.param), build, file_for)
    async with SUBJECTS[request.param](ground) as subject:
        yield subject


def tokenizer(subject: Subject) -> Tokenizer:
    assert isinstance(subject.responder, Tokenizer)
    return subject.responder


async def text_of(subject: Subject, tokens: tuple[int, ...]) -> str:
    return spelled(await tokenizer(subject).spell(SpellRequest(model=subject.model, tokens=tokens)))


def expected(text: str) -> tuple[int, ...]:
    """As the library has it that made the bundled model's vocabulary."""
    library = HuggingFaceTokenizer.from_file(str(FOLDER / "tokenizer.json"))
    return tuple(library.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("text", TEXTS)
async def test_a_text_has_tokens_that_are_the_text(subject: Subject, text: str) -> None:
    tokens = await tokenizer(subject).tokens(ChatRequest(model=subject.model, prompt=text))
    assert await text_of(subject, tokens) == text
    if subject.model != "counting":
        assert tokens == expected(text)


async def test_nothing_has_no_tokens(subject: Subject) -> None:
    assert await tokenizer(subject).tokens(ChatRequest(model=subject.model, prompt="")) == ()
    assert await text_of(subject, ()) == ""


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
async def test_the_tokens_of_a_chat_are_those_of_its_rendered_prompt(
    subject: Subject, chat: ChatRequest
) -> None:
    request = msgspec.structs.replace(chat, model=subject.model)
    tokens = await tokenizer(subject).tokens(request)
    if subject.model == "counting":  # without a template
        assert await text_of(subject, tokens) == "\n".join(message.content for message in chat.messages)
        return
    around = texts(FOLDER)
    prompt = await prompt_of(request, ChatTemplate(around.template, bos=around.bos, eos=around.eos))
    assert tokens == expected(prompt)
    assert await text_of(subject, tokens) == prompt


async def test_they_are_as_many_as_an_answer_says_that_were_read(subject: Subject) -> None:
    if subject.model == "counting":  # which says how many words it was asked
        return
    request = subject.request("What is 12 + 7?")
    end = finished(await answer(subject.responder, request))
    assert len(await tokenizer(subject).tokens(request)) == end.usage.prompt_tokens


async def test_a_prompt_that_does_not_fit_has_its_tokens(subject: Subject) -> None:
    text = "12 + 7 " * 3000
    tokens = await tokenizer(subject).tokens(ChatRequest(model=subject.model, prompt=text))
    assert len(tokens) > 6000
    assert await text_of(subject, tokens) == text


async def test_each_token_has_a_piece_though_it_be_half_a_character(subject: Subject) -> None:
    tokens = await tokenizer(subject).tokens(ChatRequest(model=subject.model, prompt="🙂"))
    pieces = await tokenizer(subject).spell(SpellRequest(model=subject.model, tokens=tokens))
    assert len(pieces) == len(tokens) > 1
    assert b"".join(pieces) == "🙂".encode()
    assert await text_of(subject, tokens[:1]) == "\ufffd"


@pytest.mark.parametrize("token", [512, 2**31 - 1])
async def test_a_token_beyond_the_vocabulary_is_named(subject: Subject, token: int) -> None:
    with pytest.raises(BadRequest, match=rf"token {token} is not in the vocabulary") as refused:
        await text_of(subject, (1, token))
    assert refused.value.param == "tokens[1]"
