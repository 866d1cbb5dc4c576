import json
from pathlib import Path

import pytest

from exo.chat import ChatRequest, Message, Tool, ToolCall
from exo.errors import BadRequest, EngineFailed
from exo.generation.templates import ChatTemplate
from rkllama.models.families import known_templates, template_for

TALK = (
    Message("system", "Be brief."),
    Message("user", "Hi"),
    Message("assistant", "<think>\nhm\n</think>\n\nHello"),
    Message("user", "1+1?"),
)
HELLO = TALK[2].content
USER, ASSISTANT = "<|im_start|>user\n", "<|im_start|>assistant\n"
SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n"
HEAD, HEAD_ENDS = "<|start_header_id|>", "<|end_header_id|>\n\n"
# Written out from the formats that the models' makers document.
EXPECTED = {
    "chatml": f"{SYSTEM}{USER}Hi<|im_end|>\n{ASSISTANT}{HELLO}<|im_end|>\n{USER}1+1?<|im_end|>\n{ASSISTANT}",
    "qwen3": f"{SYSTEM}{USER}Hi<|im_end|>\n{ASSISTANT}Hello<|im_end|>\n{USER}1+1?<|im_end|>\n{ASSISTANT}",
    "deepseek-r1": "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜>Hello<｜end▁of▁sentence｜>"
    "<｜User｜>1+1?<｜Assistant｜><think>\n",
    "llama-3": f"<|begin_of_text|>{HEAD}system{HEAD_ENDS}Be brief.<|eot_id|>{HEAD}user{HEAD_ENDS}Hi<|eot_id|>"
    f"{HEAD}assistant{HEAD_ENDS}{HELLO}<|eot_id|>{HEAD}user{HEAD_ENDS}1+1?<|eot_id|>{HEAD}assistant{HEAD_ENDS}",
    "phi-3": f"<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n{HELLO}<|end|>\n"
    "<|user|>\n1+1?<|end|>\n<|assistant|>\n",
    "gemma": f"<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n{HELLO}"
    "<end_of_turn>\n<start_of_turn>user\n1+1?<end_of_turn>\n<start_of_turn>model\n",
    "zephyr": f"<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\n{HELLO}</s>\n"
    "<|user|>\n1+1?</s>\n<|assistant|>\n",
}


def rendered(folder: Path, name: str, **keys: object) -> tuple[str, bool]:
    template = template_for(folder, "", name)
    request = ChatRequest(model=name, messages=TALK, **keys)  # type: ignore[arg-type]
    found = ChatTemplate(template.source, bos=template.bos, eos=template.eos).render(request)
    return found.prompt, found.opened


@pytest.mark.parametrize("name", EXPECTED)
def test_a_conversation_is_rendered_as_the_family_was_taught(tmp_path: Path, name: str) -> None:
    assert rendered(tmp_path, name) == (EXPECTED[name], name == "deepseek-r1")


def test_every_template_is_tested() -> None:
    assert known_templates() == EXPECTED.keys()


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("Qwen2.5-1.5B-Instruct", "chatml"),
        ("Qwen2.5-7b", "chatml"),
        ("Qwen3-1.7B", "qwen3"),
        ("DeepSeek-R1-1.5B", "deepseek-r1"),
        ("DeepSeek-R1-Distill-Qwen-1.5B", "deepseek-r1"),
        ("Phi-3-mini", "phi-3"),
        ("Llama-3.2-1B", "llama-3"),
        ("gemma-2-2b-it", "gemma"),
        ("TinyLlama-1.1B-Chat", "zephyr"),
    ],
)
def test_a_family_is_known_by_its_name(tmp_path: Path, model: str, family: str) -> None:
    assert template_for(tmp_path, "", model).origin == f"family {family}"
    assert template_for(tmp_path, "", "mine", model).origin == f"family {family}"


def test_what_lies_beside_the_file_goes_before_its_name(tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "from config"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    template = template_for(tmp_path, "", "Qwen3-1.7B")
    assert (template.source, template.bos, template.eos) == ("from config", "<s>", "</s>")
    (tmp_path / "chat_template.jinja").write_text("from file")
    assert template_for(tmp_path, "", "Qwen3-1.7B").source == "from file"
    assert template_for(tmp_path, "phi-3", "Qwen3-1.7B").origin == "family phi-3"


def test_several_templates_in_a_config_have_a_default(tmp_path: Path) -> None:
    config = {"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert template_for(tmp_path, "", "mystery").source == "d"


def test_an_unknown_family_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        BadRequest, match=r"'mystery' is not known: put its tokenizer_config.json .* TEMPLATE"
    ):
        template_for(tmp_path, "", "mystery")
    with pytest.raises(BadRequest, match=r"TEMPLATE=jinja in the Modelfile is none of chatml, "):
        template_for(tmp_path, "jinja", "mystery")


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(EngineFailed, match=r"tokenizer_config\.json cannot be used"):
        template_for(tmp_path, "", "Qwen3-1.7B")


def test_thinking_is_switched_where_the_family_can(tmp_path: Path) -> None:
    assert rendered(tmp_path, "Qwen3", thinking=False)[0].endswith("assistant\n<think>\n\n</think>\n\n")
    with pytest.raises(BadRequest, match="does not think"):
        rendered(tmp_path, "Qwen2.5-1.5B", thinking=True)
    with pytest.raises(BadRequest, match="always thinks"):
        rendered(tmp_path, "DeepSeek-R1-1.5B", thinking=False)


@pytest.mark.parametrize("name", ["Qwen2.5-1.5B", "Qwen3-1.7B"])
def test_tools_are_announced_and_their_results_told(tmp_path: Path, name: str) -> None:
    template = template_for(tmp_path, "", name)
    call = ToolCall(0, "call_1", "clock", '{"zone": "CET"}')
    prompt = (
        ChatTemplate(template.source)
        .render(
            ChatRequest(
                model=name,
                messages=(
                    Message("user", "What time is it?"),
                    Message("assistant", "", tool_calls=(call,)),
                    Message("tool", "noon", tool_call_id="call_1"),
                ),
                tools=(Tool("clock", "tells the time"),),
            )
        )
        .prompt
    )
    assert '<tools>\n{"type": "function", "function": {"name": "clock"' in prompt
    assert '<tool_call>\n{"name": "clock", "arguments": {"zone": "CET"}}\n</tool_call><|im_end|>' in prompt
    assert "<|im_start|>user\n<tool_response>\nnoon\n</tool_response><|im_end|>\n" in prompt
