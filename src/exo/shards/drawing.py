"""How the tokens of one answer are drawn, in the process that has the output head."""

import numpy as np

from exo.errors import EngineFailed
from exo.generation.sampler import Logits, Sampler, logprobs
from exo.generation.vocabulary import Vocabulary
from exo.shards.frames import Begin, Drawn, Odds


class Drawing:
    def __init__(self, begin: Begin, size: int, vocabulary: Vocabulary | None) -> None:
        self._sampler = Sampler(begin.sampling, vocabulary=size, prompt=begin.prompt)
        self._size, self._top = size, begin.logprobs
        self._form = None
        if begin.form is not None and vocabulary is not None:
            from exo.generation.form import Form

            self._form, self._ends = Form(begin.form, vocabulary), vocabulary.ends

    def draw(self, id: int, row: Logits) -> Drawn:
        logits, form = self._of_vocabulary(row), self._form
        token = self._sampler.draw(logits, form.allowed() if form else None)
        complete = form is not None and token not in self._ends and form.completed_by(token)
        if self._top is None:
            return Drawn(id, token, complete=complete)
        chosen, top = logprobs(logits, token, self._top)
        return Drawn(id, token, Odds(chosen, tuple(top)), complete)

    def _of_vocabulary(self, row: Logits) -> Logits:
        """`row` without what pads it; what it lacks cannot be drawn."""
        if (likeliest := int(row.argmax())) >= self._size:
            raise EngineFailed(
                f"the model says token {likeliest}, but its tokenizer.json has only {self._size}: that is "
                "another model's, or the weights are damaged"
            )
        if row.size >= self._size:
            return row[: self._size]
        return np.concatenate((row, np.full(self._size - row.size, -np.inf, np.float32)))
