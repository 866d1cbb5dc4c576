"""What rkllama makes of a converted folder: it reads it with its own catalogue."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLED, Bench
from exo.chat import ChatRequest, Message
from exo.generation.folder import texts
from exo.generation.templates import ChatTemplate
from rkllama.models import modelfile
from rkllama.models.catalogue import Models
from rkllama.models.families import template_for

from rkllm_convert import card
from rkllm_convert.convert import convert
from rkllm_convert.errors import BadInput

QWEN = "<|im_start|>user\n{{ messages[0].content }}<|im_end|>\n<|im_start|>assistant\n"
SWITCH = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"


def model(folder: Path, *, template: str | None = None, config: dict[str, Any] | None = None) -> Path:
    """A copy of the bundled model that is changed."""
    shutil.copytree(BUNDLED, folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    if config:
        (folder / "generation_config.json").write_text(json.dumps(config))
    return folder


def test_rkllama_lists_it_with_name_context_dtype_and_sampling(bench: Bench, tmp_path: Path) -> None:
    advised = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    convert(bench.conversion(model(tmp_path / "it", config=advised), max_context=1024), bench.say)
    entry = Models(bench.out).entry("demo")
    shown = entry.card
    assert (shown.id, shown.context, shown.quantization) == ("demo", 1024, "w8a8")
    assert (shown.sampling.temperature, shown.sampling.top_k, shown.sampling.top_p) == (0.7, 20, 0.8)
    assert shown.sampling.repeat_penalty == 1.05
    assert shown.bytes == card.read(entry.folder)["bytes"] == entry.file.stat().st_size


@pytest.mark.parametrize(
    ("template", "style"),
    [
        (QWEN, "no"),
        (QWEN + "<think>\n", "always"),
        (QWEN + SWITCH, "on request"),
    ],
)
def test_the_thinking_style_on_the_card_is_how_rkllama_has_it_think(
    bench: Bench, tmp_path: Path, template: str, style: str
) -> None:
    folder = convert(bench.conversion(model(tmp_path / "it", template=template)), bench.say)
    assert card.read(folder)["thinking"] == style
    found = template_for(folder, "", "demo")
    assert found.origin == str(folder)
    compiled = ChatTemplate(found.source, bos=found.bos, eos=found.eos)
    request = ChatRequest(model="demo", messages=(Message("user", "Hello"),))
    rendered = compiled.render(request)
    assert (rendered.opened, rendered.may_think) == {
        "no": (False, False),
        "always": (True, True),
        "on request": (False, True),
    }[style]


def test_a_modelfile_is_read_as_it_was_meant(bench: Bench) -> None:
    folder = convert(bench.conversion(), bench.say)
    read = modelfile.read(folder / "Modelfile")
    assert (read.source, read.hub, read.context) == (card.read(folder)["file"], "exo-demo", 2048)
    assert read.sampling.temperature == 0  # the model's makers do not sample


def test_the_template_is_in_the_tokenizers_configuration_too(bench: Bench) -> None:
    """That is what comes along where a model is pulled."""
    folder = convert(bench.conversion(), bench.say)
    template = (BUNDLED / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    assert texts(folder).template == template


def test_a_file_that_was_damaged_later_is_found_out(bench: Bench) -> None:
    folder = convert(bench.conversion(), bench.say)
    file = folder / card.read(folder)["file"]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BadInput, match="its checksum differs"):
        card.checked(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "file": "../../etc/passwd"}'])
def test_a_card_of_anybody_elses_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(BadInput, match=r"card\.json cannot be used"):
        card.read(tmp_path)
