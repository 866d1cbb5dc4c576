import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.chat import Sampling
from exo.errors import EngineFailed
from rkllama.models.modelfile import Modelfile, read, write

ORIGINAL = """\
# as the first rkllama wrote them
FROM="Qwen2.5-1.5B-Instruct-rk3588-w8a8-opt-0.rkllm"

HUGGINGFACE_PATH="Qwen/Qwen2.5-1.5B-Instruct"

SYSTEM="You are a \\"brief\\" assistant."

TEMPERATURE=0.5
MAX_NEW_TOKENS = 1024
ENABLE_THINKING='False'
NUM_CTX=4096
"""


def made(folder: Path, text: str) -> Path:
    path = folder / "Modelfile"
    path.write_text(text)
    return path


def test_reads_what_the_first_rkllama_wrote(tmp_path: Path) -> None:
    assert read(made(tmp_path, ORIGINAL)) == Modelfile(
        source="Qwen2.5-1.5B-Instruct-rk3588-w8a8-opt-0.rkllm",
        hub="Qwen/Qwen2.5-1.5B-Instruct",
        system='You are a "brief" assistant.',
        sampling=Sampling(temperature=0.5, max_tokens=1024),
        thinking=False,
        context=4096,
    )


def test_a_long_text_goes_over_several_lines(tmp_path: Path) -> None:
    path = made(tmp_path, 'SYSTEM="""You are\nbrief = good.\n"""\r\nTIMEOUT=5\r\n')
    assert read(path) == Modelfile(system="You are\nbrief = good.\n", timeout=5.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\n\nTEMPERATURE=hot", r"line 3: TEMPERATURE=hot is not such a number"),
        ("TEMPERATURE=9", "line 1: TEMPERATURE=9 must be from 0 to 2"),
        ("TEMPERATURE=nan", "must be from 0 to 2"),
        ("NUM_CTX=1", "must be 32 or more"),
        ("MAX_NEW_TOKENS=1.5", "not such a number"),
        ("ENABLE_THINKING=perhaps", "must be true or false"),
        ("FROM=a\nhello", "line 2: 'hello' is not KEY=VALUE"),
        ('SYSTEM="open', "line 1"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(EngineFailed, match=complaint) as raised:
        read(made(tmp_path, text))
    assert str(tmp_path / "Modelfile") in raised.value.message


def test_a_key_without_effect_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert read(made(tmp_path, "TEMPERTURE=1\nMIROSTAT=2\n")) == Modelfile()
    assert "line 1: TEMPERTURE is not known and has no effect; did you mean TEMPERATURE?" in caplog.text
    assert "line 2: MIROSTAT has no effect" in caplog.text


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="nowhere"):
        read(tmp_path / "nowhere")


texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters='\r"'), max_size=40)


@given(
    st.builds(
        Modelfile,
        source=texts,
        hub=texts,
        system=texts,
        sampling=st.builds(
            Sampling,
            temperature=st.none() | st.floats(0, 2),
            top_k=st.none() | st.integers(0, 100),
            seed=st.none() | st.integers(0, 2**40),
            max_tokens=st.none() | st.integers(1, 10**6),
        ),
        thinking=st.none() | st.booleans(),
        context=st.none() | st.integers(32, 16384),
        timeout=st.none() | st.floats(1, 1e6),
        domain=st.none() | st.integers(0, 8),
    )
)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, modelfile: Modelfile
) -> None:
    path = tmp_path_factory.getbasetemp() / "Modelfile"
    write(path, modelfile)
    assert read(path) == modelfile
    assert not path.with_name(".Modelfile.new").exists()
