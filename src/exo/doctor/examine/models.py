"""The owner's models: which cannot be loaded, which not as they are meant to be, and what is left over."""

from collections.abc import Iterator
from pathlib import Path

from exo.doctor.evidence import Evidence, Leftover, ModelFile, Shelf
from exo.doctor.finding import Finding, gb

_AGAIN = "exo rm {id} takes it away; then get it again."


def examine(evidence: Evidence) -> Iterator[Finding]:
    if evidence.shelf is None:
        return
    shelf, budget = evidence.shelf, _budget(evidence)
    fine = []
    for model in shelf.models:
        found = tuple(_model(model, budget))
        yield from found
        if not found:
            fine.append(model)
    yield from _fine(fine, budget)
    yield from _around(shelf)


def _model(model: ModelFile, budget: int) -> Iterator[Finding]:
    """What is wrong with it; nothing where all is well."""
    subject, again = f"Model {model.id}", _AGAIN.format(id=model.id)
    if model.problem is not None:
        yield Finding("broken", subject, model.problem, again)
        return
    if model.lacking:
        some = ", ".join(model.lacking[:3]) + (" and others" if len(model.lacking) > 3 else "")
        yield Finding(
            "note",
            subject,
            f"files that its index names are missing: {some}. It loads only in parts, split over nodes",
            f"exo pull {model.id} fetches them.",
        )
        return
    if model.missing:
        says = (
            f"{model.path} is cut short: {gb(model.missing)} of {gb(model.bytes + model.missing)} are missing"
        )
        yield Finding("broken", subject, says, again)
        return
    if not model.tokenizer:
        says = f"{model.path} has no tokenizer.json, without which nothing can be read or written"
        yield Finding("broken", subject, says, "Put the one of the same model beside the weights.")
    if not model.template and not model.embeds:
        says = "it has no chat template: it goes on with a text, and takes no conversations"
        remedy = "Get the instruct or chat version, or another maker's file of it."
        yield Finding("note", subject, says, remedy)
    if budget and model.bytes > budget:
        says = f"its file alone takes {gb(model.bytes)}, and all models together get {gb(budget)}"
        yield Finding("note", subject, says, "A smaller quantization, or more nodes to split it over.")
    elif budget and model.memory > budget:
        yield Finding(
            "note",
            subject,
            f"with {model.context} tokens of context for each request it takes {gb(model.memory)}, and all "
            f"models together get {gb(budget)}",
            "exo --slots 1 or a smaller --context takes less.",
        )


def _fine(models: list[ModelFile], budget: int) -> Iterator[Finding]:
    if not models:
        return
    largest = max(models, key=lambda model: model.memory)
    more = len(models) - 1
    others = f", and {more} that take{'s' * (more == 1)} less" if more else ""
    of = f" of {gb(budget)}" if budget else ""
    yield Finding("ok", "Models", f"{largest.id} can be loaded, which takes {gb(largest.memory)}{of}{others}")


def _around(shelf: Shelf) -> Iterator[Finding]:
    for leftover in shelf.leftovers:
        yield _leftover(leftover)
    for stranger in shelf.strangers:
        says = f"{stranger.what} is no model: {stranger.why}"
        # Nobody misses a file of notes, but what is called a model is meant to be one.
        if stranger.what.endswith(".gguf"):
            yield Finding("broken", f"Model {Path(stranger.what).stem}", says, "exo pull gets it again.")
        else:
            yield Finding("note", "Models", says, "Complete it, or move it away.")
    for name in shelf.twice:
        says = f"both a file and a folder are called {name}, and only one of them is offered"
        yield Finding("note", f"Model {name}", says, "Rename one of them.")
    if shelf.unseen:
        yield Finding("note", "Models", f"there was no time to look into {shelf.unseen} more of them")


def _leftover(leftover: Leftover) -> Finding:
    subject, size = f"Download {leftover.id}", gb(leftover.bytes)
    if leftover.under_way:
        return Finding("ok", subject, f"under way, {size} so far")
    remedy = f"exo pull {leftover.id} goes on with it, exo rm {leftover.id} throws it away."
    return Finding("note", subject, f"it broke off and has left {size}", remedy)


def _budget(evidence: Evidence) -> int:
    """What all models together may take; 0 where it is not known."""
    if evidence.node is not None and evidence.node.budget:
        return evidence.node.budget
    return evidence.memory.budget if evidence.memory is not None else 0
