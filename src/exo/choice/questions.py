"""What a question looks like, and how likely it is that thinking pays before answering it. Pure.

Theory of operation. A logistic regression over two kinds of features of the last user message:

- about twenty that a person would name (`NAMES`): its length, its numbers, how it asks. Words that ask for
  thought, or for none, are looked up in a table of four languages (English, German, Spanish, Chinese);
- its words and pairs of words, hashed into 4096 buckets (CRC-32, so the same in every process). Chinese,
  which is written without spaces, is taken character by character. Numbers are all one word.

Of a message of more than 500 characters only the beginning of the first line and the end of the last one are
read: what is asked stands there, and between them is what it is asked of, whose words and numbers say little.
So a decision takes as long for any length. The weights are in `auto.json`, read when first asked for;
`python -m auto` in the repository makes them, and docs/AUTO.md says of what, and how little that means.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from zlib import crc32

import msgspec

from exo.chat import ChatRequest

BUCKETS = 4096
NAMES = (
    *("length", "beyond", "sentences", "numbers", "one sum", "sums", "symbols", "code", "lists"),
    *("questions", "turns", "earlier"),
    *("quantity", "proof", "steps", "conditions", "best", "faults", "text", "writing", "facts", "chat"),
)
"""The features that have names, in the order of `Features.values`."""

_WINDOW = 250
"""Characters read of each end of a message that is longer than both."""

_MANY = 8
"""Of anything, more than which says no more."""

_CUES: Mapping[str, str] = {
    "quantity": "how many, how much, how long, how far, how old, how fast, probability, chance, total,"
    " remainder, wie viele, wie viel, wie lange, wie weit, wie alt, wahrscheinlichkeit, insgesamt,"
    " cuántos, cuántas, cuánto, cuánta, probabilidad, resto, 多少, 几个, 几种, 几天, 多久, 概率, 一共,"
    " 余数",
    "proof": "prove, proof, disprove, derive, justify, deduce, conclude, contradiction, valid, follows,"
    " implies, beweise, beweis, begründe, folgt, folgere, widerspruch, gültig, demuestra, demuestre,"
    " justifica, concluye, contradicción, válido, 证明, 推导, 推断, 矛盾, 理由",
    "steps": "step by, carefully, reasoning, why, solve, calculate, compute, determine, evaluate,"
    " work out, figure out, schritt für, warum, löse, berechne, bestimme, ermittle, paso a, por qué,"
    " resuelve, calcula, determina, averigua, 一步, 逐步, 为什么, 求解, 计算, 解方程, 确定",
    "conditions": "if, unless, each, every, exactly, only, except, must, cannot, between, before, after,"
    " at least, at most, no more, neither, either, both, until, while, wenn, falls, jede, jeder, jedes,"
    " genau, nur, muss, darf, zwischen, vor, nach, mindestens, höchstens, weder, beide, si, cada,"
    " exactamente, solo, debe, puede, entre, antes, después, al menos, como máximo, ni, ambos,"
    " all, some, none, nobody, no, not, alle, einige, kein, keine, niemand, todos, algunos, ninguno, nadie,"
    " 如果, 每, 所有, 有些, 恰好, 只有, 必须, 不能, 之间, 之前, 之后, 至少, 最多",
    "best": "minimum, maximum, minimize, maximize, cheapest, shortest, fastest, fewest, optimal, optimum,"
    " schedule, strategy, tradeoff, trade, versus, plan, largest, smallest, best, decide, better, minimal,"
    " maximal, billigste, kürzeste, wenigsten, optimale, strategie, plane, abwägen, lohnt, mínimo, máximo,"
    " óptimo, óptima, estrategia, planifica, conviene, 最小, 最大, 最少, 最短, 最优, 策略, 安排, 哪个更",
    "faults": "bug, bugs, error, crashes, fails, traceback, wrong, incorrect, deadlock, leak, flaky, race,"
    " broken, cause, diagnose, fehler, falsch, abstürzt, ursache, fallo, falla, causa, incorrecto, 错误,"
    " 报错, 原因, 崩溃",
    "text": "translate, translation, summarize, summarise, summary, rewrite, rephrase, paraphrase,"
    " proofread, shorten, extract, format, reformat, bullet, uppercase, lowercase, headline, classify,"
    " sentiment, tone, übersetze, fasse, zusammenfassung, formuliere, korrigiere, extrahiere, kürze,"
    " traduce, traduzca, resume, resumen, reescribe, corrige, extrae, 翻译, 总结, 概括, 改写, 润色, 提取,"
    " 校对",
    "writing": "poem, haiku, story, email, letter, tweet, slogan, names, recipe, song, joke, birthday,"
    " essay, caption, gedicht, geschichte, brief, rezept, witz, poema, cuento, correo, carta, receta,"
    " chiste, 诗, 故事, 邮件, 菜谱, 笑话, 标题",
    "facts": "who, when, where, capital, define, definition, meaning, called, synonym, mean, what is,"
    " what are, wer, wann, wo, hauptstadt, bedeutet, heißt, was ist, quién, cuándo, dónde, significa,"
    " qué es, 什么是, 是谁, 哪里, 首都, 意思, 什么时候",
    "chat": "hello, hi, hey, thanks, thank, bye, goodbye, morning, hallo, danke, tschüss, hola, gracias,"
    " adiós, 你好, 谢谢, 再见, 早上好",
}
"""Words, and pairs of them, by what they ask for. "text" is work on a text that is there."""

_TOLD = 0.15
"""How much of the logit is worth a word."""

_UNTOLD = ("length", "sentences")
"""Features that are no reason to a reader."""

_THOUGHT = ("quantity", "proof", "steps", "conditions", "best", "faults")
"""Of the cues, those that ask for thought."""

_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W\d_\u4e00-\u9fff]+|\d+")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_SUM = re.compile(r"\d\s*[-+*/^\u00d7÷%=]\s*[\d(]|\)\s*[-+*/^\u00d7÷]")
_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s", re.MULTILINE)
_ENDS = ".!?\u3002\uff01\uff1f\n"
_SYMBOLS = "=<>≤≥≠∑∫√π∈∀∃→∞^²³"
_CODE = ("```", "\n    ", "def ", "return ", "==", "();", "){", "() {", "=>", "import ", "SELECT ", "print(")


class Features(msgspec.Struct, frozen=True):
    """A question as numbers: `values` of the features in `NAMES`, most of them from 0 to 2, and the `buckets`
    that its wording falls into. `words` says those that are there in plain words."""

    values: tuple[float, ...]
    buckets: frozenset[int]
    words: Mapping[str, str]


class Likelihood(msgspec.Struct, frozen=True):
    """The probability that thinking pays, and what speaks most for it and against it, in plain words."""

    probability: float
    for_it: tuple[str, ...]
    against: tuple[str, ...]


class Weights(msgspec.Struct, frozen=True):
    """What is in `auto.json`. The logit is `bias`, plus `values` times theirs by name, plus `step` times the
    sum of the question's `buckets` (signed bytes) over the square root of how many it has."""

    bias: float
    values: Mapping[str, float]
    step: float
    buckets: bytes


def features(request: ChatRequest) -> Features:
    """The request as numbers: of its last user message, or its raw prompt. The model's name and whatever was
    not said by a user play no part."""
    said = [message.content for message in request.messages if message.role == "user"]
    text = request.prompt if request.prompt is not None else said[-1] if said else ""
    seen = _seen(text)
    words = _words(seen)
    cues = _cues(seen, words)
    earlier = _seen(said[-2]) if len(said) > 1 else ""
    before = _cues(earlier, _words(earlier))
    numbers, sums = sum(map(str.isdigit, words)), len(_SUM.findall(seen))
    counts = {
        "length": min(len(text), 2 * _WINDOW),
        "beyond": max(0, len(text) - 2 * _WINDOW),
        "sentences": sum(map(seen.count, _ENDS)),
        "numbers": numbers,
        "one sum": int(sums == 1 and numbers == 2),
        "sums": max(0, sums - 1),
        "symbols": sum(map(seen.count, _SYMBOLS)),
        "code": sum(map(seen.count, _CODE)),
        "lists": len(_ITEM.findall(seen)),
        "questions": seen.count("?") + seen.count("\uff1f"),
        "turns": max(0, len(said) - 1),
        "earlier": sum(len(before[name]) for name in _THOUGHT if name in before),
        **{name: len(found) for name, found in cues.items()},
    }
    told = {name: count for name, count in counts.items() if count and name not in _UNTOLD}
    return Features(
        values=tuple(_scaled(name, counts.get(name, 0)) for name in NAMES),
        buckets=_buckets(words),
        words={name: _said(name, count, cues.get(name, [""])[0]) for name, count in told.items()},
    )


def probability(request: ChatRequest) -> float:
    """The share of such questions that gain from thinking, from 0 to 1."""
    return likelihood(request).probability


def likelihood(request: ChatRequest) -> Likelihood:
    """The probability that thinking pays, with its reasons."""
    asked = features(request)
    named, step, buckets, bias = _weights()
    # Whole numbers, so their sum does not depend on their order.
    wording = step * sum(map(buckets.__getitem__, asked.buckets)) / math.sqrt(len(asked.buckets) or 1)
    parts = [(weight * value, name) for weight, value, name in zip(named, asked.values, NAMES, strict=True)]
    logit = bias + wording + math.fsum(part for part, _ in parts)
    words = [(part, asked.words[name]) for part, name in parts if name in asked.words]
    ordered = sorted((*words, (wording, "its wording")))
    return Likelihood(
        # No further than where exp() would overflow.
        probability=1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, logit)))),
        for_it=tuple(word for part, word in reversed(ordered) if part > _TOLD)[:3],
        against=tuple(word for part, word in ordered if part < -_TOLD)[:3],
    )


def _seen(text: str) -> str:
    """What is read of a message."""
    if len(text) <= 2 * _WINDOW:
        return text
    text = text.strip()
    first, last = text[:_WINDOW].partition("\n")[0], text[-_WINDOW:].rpartition("\n")[2]
    return f"{first}\n{last}"


def _words(text: str) -> Sequence[str]:
    words: list[str] = _WORD.findall(text.lower())
    return words


def _cues(text: str, words: Sequence[str]) -> dict[str, list[str]]:
    """What of `_CUES` there is, by its group, in order."""
    spaced, unspaced = _table()
    found: dict[str, list[str]] = {}
    for position, word in enumerate(words):
        if word in spaced:
            after = spaced[word]
            following = words[position + 1] if position + 1 < len(words) else ""
            for second in (following, "") if following in after else ("",):
                if second in after:
                    found.setdefault(after[second], []).append(f"{word} {second}".rstrip())
                    break
    if _CHINESE.search(text):
        for cue, group in unspaced:
            if count := text.count(cue):
                found.setdefault(group, []).extend([cue] * count)
    return found


@cache
def _table() -> tuple[dict[str, dict[str, str]], list[tuple[str, str]]]:
    """`_CUES` for look-up: group by first and second word ("" where there is none), and those in Chinese."""
    spaced: dict[str, dict[str, str]] = {}
    unspaced: list[tuple[str, str]] = []
    for group, phrases in _CUES.items():
        for phrase in map(str.strip, phrases.split(",")):
            if _CHINESE.match(phrase):
                unspaced.append((phrase, group))
            else:
                first, _, second = phrase.partition(" ")
                # A word of two groups is of the first, in every process.
                spaced.setdefault(first, {}).setdefault(second, group)
    return spaced, unspaced


def _scaled(name: str, count: int) -> float:
    """Small counts apart, large ones together."""
    if name in ("length", "beyond"):
        return math.log1p(count) / 8.0
    return math.log1p(min(count, _MANY)) / 2.0


def _buckets(words: Iterable[str]) -> frozenset[int]:
    """Where the words and pairs of neighbours fall."""
    found: set[int] = set()
    add, before = found.add, 0
    for word in words:
        data = b"0" if word.isdigit() else word.encode()
        add(crc32(data) % BUCKETS)
        add(crc32(data, before) % BUCKETS)
        # The next pair's hash goes on from here. No pair begins with 0, which is the hash of nothing.
        before = crc32(data, 1)
    return frozenset(found)


def _said(name: str, count: int, cue: str) -> str:
    if cue:
        return f"{'asks' if name in ('quantity', 'facts') else 'says'} '{cue}'"
    plural = "" if count == 1 else "s"
    return {
        "beyond": "is long",
        "numbers": f"has {count} number{plural}",
        "one sum": "is a single sum",
        "sums": f"has {count + 1} sums in it",
        "symbols": "has symbols of mathematics",
        "code": "has code in it",
        "lists": f"has a list of {count}",
        "questions": f"has {count} question{plural}",
        "turns": f"is turn {count + 1}",
        "earlier": "follows such a question",
    }[name]


@cache
def _weights() -> tuple[tuple[float, ...], float, Sequence[int], float]:
    """Of the named features in their order, the buckets' step and their weights, and the bias."""
    read = msgspec.json.decode(Path(__file__).with_name("auto.json").read_bytes(), type=Weights)
    named = tuple(read.values[name] for name in NAMES)
    return named, read.step, memoryview(read.buckets).cast("b").tolist(), read.bias
