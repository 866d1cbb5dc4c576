"""Writes calibration data: the model answers prompts in its own chat template. It runs as a script, in the
Python that has the toolkit, with the transformers and torch that the toolkit brings.

`python answer_prompts.py JOB` reads a JSON file: `model` (a folder), `prompts` (each `text` and `thinking`,
None where the template has no such switch), `templated`, `out` (a file that gets a JSON line for each row, in
order, behind those it has), `device`, `dtype`, `tokens`. Answers are greedy, so they are the same each time.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

# From Linux's <sys/prctl.h>: whoever began this may be killed, and nobody would end hours of work then.
_PR_SET_PDEATHSIG = 1


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(0)
    dtype = getattr(torch, job["dtype"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], torch_dtype=dtype)
    model = model.to(job["device"]).eval()
    count = len(job["prompts"])
    with open(job["out"], "a+", encoding="utf-8") as out:
        out.seek(0)
        done = len(out.readlines())
        for number, prompt in enumerate(job["prompts"]):
            if number < done:
                continue
            row = _row(tokenizer, model, torch, job, prompt)
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
            print(f"Answering prompts: {100 * (number + 1) // count}%|=| {number + 1}/{count} [", flush=True)


def _row(
    tokenizer: Any, model: Any, torch: Any, job: dict[str, Any], prompt: dict[str, Any]
) -> dict[str, str]:
    text = prompt["text"]
    if job["templated"]:
        switch = {} if prompt["thinking"] is None else {"enable_thinking": prompt["thinking"]}
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, **switch
        )
    # The template has written the special tokens already.
    tokens = tokenizer(text, return_tensors="pt", add_special_tokens=not job["templated"]).to(job["device"])
    with torch.no_grad():
        answered = model.generate(**tokens, max_new_tokens=job["tokens"], do_sample=False)
    new = answered[0][tokens["input_ids"].shape[1] :]
    return {"input": text, "target": tokenizer.decode(new, skip_special_tokens=True)}


if __name__ == "__main__":
    main()
