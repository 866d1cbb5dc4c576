"""Where chat templates run: Jinja's sandbox, in which they also come to an end, and take little memory.

A template comes with a model's file, from anybody. Jinja's sandbox keeps it from Python and from the machine;
but it may loop for ever, and `'a' * 10**9` is a gigabyte. Templates run in the node's own process, where one
that does not end ends the node. So all that a rendering does is counted, and it fails past its `Budget`:

- each turn of a loop, call, filter and operation is a unit, with what it makes (characters, items), and so is
  each character that is printed;
- what could be huge before it can be counted is computed beforehand, and refused: products, powers, padding,
  replacements, joints, formats, and values that are within themselves many times over;
- there is a time by which it has to be done.

Jinja has hooks for calls, operators and what is printed. Loops, literals and `~` have none, so as a template
is parsed they are passed through filters of this module's, whose names no template can write.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

from jinja2 import Undefined, nodes, pass_context
from jinja2.exceptions import TemplateRuntimeError
from jinja2.ext import loopcontrols
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

UNITS = 100_000_000
"""Per rendering; the longest prompts take a fiftieth of it."""
SECONDS = 5.0
MOST_SOURCE = 1 << 18
"""Characters of a template; the longest there are have 20,000."""
MOST_NUMBER = 1_000_000
"""As an argument: a width, a count."""
_MOST_BITS = 4096
_MOST_WIDTH = 1000

# Behind names with a blank, which no template can write.
_BUDGET, _COUNTED, _MADE, _JOINED = "a budget", "each of", "made of", "joined by"

_WIDTHS = re.compile(r"\d{4,}|\*")


class TooMuch(TemplateRuntimeError):
    """A template has done more than a template needs."""


class Budget:
    """What is left for one rendering."""

    def __init__(self, units: int, seconds: float) -> None:
        self._left = units
        self._until = time.monotonic() + seconds

    def spend(self, units: int = 1) -> None:
        """Raises `TooMuch` where there is not so much left."""
        self._left -= units
        if self._left < 0:
            raise TooMuch("it does not come to an end, or makes too much of a short conversation")
        if time.monotonic() > self._until:
            raise TooMuch("it takes too long")

    def weigh(self, value: Any) -> int:
        """Spends a unit for all that is in a value, as often as it is there, as what walks through it would.
        Returns how many."""
        waiting, before = [value], self._left
        while waiting:
            each = waiting.pop()
            self.spend(1 + len(each) if isinstance(each, str) else 1)
            if isinstance(each, Mapping):
                waiting.extend(each.values())
            elif isinstance(each, list | tuple | set | frozenset):
                waiting.extend(each)
            elif isinstance(each, Namespace):
                waiting.append(each._Namespace__attrs)  # as Jinja lets itself look at them
        return before - self._left


def environment() -> "Environment":
    """What templates are made in. They are rendered with `variables`."""
    return Environment(
        # Constants are computed when a template is made, uncounted, if it is optimized.
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], optimized=False, finalize=_printed
    )  # fmt: skip


def variables(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a template is rendered with once, so that it stays within bounds."""
    return {**given, _BUDGET: Budget(UNITS, SECONDS)}


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which all is counted."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.globals.pop("lipsum")
        self._plain = ImmutableSandboxedEnvironment()
        self.filters = {name: self._counting(name) for name in self._plain.filters}
        self.filters |= {_COUNTED: _counted, _MADE: _made, _JOINED: _joined}

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """One more, or another one in place of Jinja's."""
        self._plain.filters[name] = function
        self.filters[name] = self._counting(name)

    def _counting(self, name: str) -> Callable[..., Any]:
        """The filter of that name, counted."""

        @pass_context
        def counting(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
            budget = _budget(context)
            budget.spend()
            if name == "join":
                value = value if isinstance(value, Sized) else list(value)
            _check_call(name, value, args, kwargs, budget)
            made = self._plain.call_filter(name, value, args, kwargs, context, context.eval_ctx)
            return _spent(made, budget)

        return counting

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _through_filters(super()._parse(source, name, filename))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = _budget(context)
        budget.spend()
        _check_operation(operator, left, right, budget)
        return _spent(super().call_binop(context, operator, left, right), budget)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _budget(__context)
        budget.spend()
        if isinstance(__obj, LoopContext) and args:
            args = (_Counted(args[0], budget, 0), *args[1:])
        elif not isinstance(__obj, Macro):
            # Jinja has put something of its own around a format, as around the method it was.
            method = getattr(__obj, "__wrapped__", __obj)
            name, value = getattr(method, "__name__", ""), getattr(method, "__self__", None)
            if name == "join" and args and not isinstance(args[0], Sized):
                args = (list(args[0]), *args[1:])
            _check_call(name, value, args, kwargs, budget)
        return _spent(super().call(__context, __obj, *args, **kwargs), budget)


# What has no hook of its own


def _through_filters(template: nodes.Template) -> nodes.Template:
    for loop in list(template.find_all(nodes.For)):
        said = sum(len(each.data) for body in loop.body for each in _texts(body))
        loop.iter = _filtered(loop.iter, _COUNTED, nodes.Const(said, lineno=loop.lineno))
    _rewrite(template)
    return template


def _texts(node: nodes.Node) -> Iterable[nodes.TemplateData]:
    return [node] if isinstance(node, nodes.TemplateData) else node.find_all(nodes.TemplateData)


def _rewrite(node: nodes.Node) -> None:
    """Puts the filters around what is inside of a node."""
    for name, value in list(node.iter_fields()):
        if isinstance(value, list):
            for each in value:
                if isinstance(each, nodes.Node):
                    _rewrite(each)
            setattr(node, name, [_wrapped(each) for each in value])
        elif isinstance(value, nodes.Node):
            _rewrite(value)
            setattr(node, name, _wrapped(value))


def _wrapped(node: Any) -> Any:
    if isinstance(node, nodes.Concat):
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _JOINED)
    if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return _filtered(node, _MADE)
    return node


def _filtered(node: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


class _Counted:
    """Something whose items cost a unit each, with the text between them. It is as long as it was."""

    def __init__(self, items: Iterable[Any], budget: Budget, each: int) -> None:
        self._items, self._budget, self._each = items, budget, each

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._budget.spend(1 + self._each)
            yield item

    def __len__(self) -> int:
        if isinstance(self._items, Sized):
            return len(self._items)
        raise TypeError("it has no length")


@pass_context
def _counted(context: Context, items: Any, text: int) -> Any:
    return items if isinstance(items, Undefined) else _Counted(items, _budget(context), text)


@pass_context
def _made(context: Context, value: Any) -> Any:
    _budget(context).weigh(value)
    return value


@pass_context
def _joined(context: Context, values: list[Any]) -> str:
    _made(context, values)
    return "".join(map(str, values))


@pass_context
def _printed(context: Context, value: Any) -> Any:
    _budget(context).weigh(value)
    return value


# Filters, calls and operators


def _spent(made: Any, budget: Budget) -> Any:
    if isinstance(made, str | bytes | list | tuple | dict):
        budget.spend(len(made))
    return made


def _check_call(
    name: str, value: Any, args: Sequence[Any], kwargs: Mapping[str, Any], budget: Budget
) -> None:
    """Raises `TooMuch` for a filter or a method of `value` that would make something huge of it."""
    given = [*args, *kwargs.values()]
    numbers = [abs(each) for each in given if isinstance(each, int)]
    if max(numbers, default=0) > MOST_NUMBER:
        raise TooMuch(f"{name} is given a number above {MOST_NUMBER:,}")
    longest = max((len(each) for each in given if isinstance(each, str)), default=0)
    match name, value:
        case "replace", str() if len(given) >= 2:
            budget.spend((value.count(str(given[0])) + 1) * (len(str(given[1])) + 1))
        case "join", str() if given and isinstance(given[0], Sized):  # the method: what is joined is given
            budget.spend(budget.weigh(given[0]) + len(given[0]) * len(value))
        case "join", Sized():
            budget.spend(budget.weigh(value) + len(value) * longest)
        case "indent" | "expandtabs" | "wordwrap" | "urlize", str():
            lines = value.count("\n") + value.count("\t") + 1
            budget.spend(len(value) * (longest + 1) + lines * max([8, *numbers]))
        case "format" | "format_map", str():
            _check_format(value, given, budget)
        case "translate", str():
            raise TooMuch("it translates a text, which is not counted")
        case "tojson", _:
            budget.spend(budget.weigh(value) * (max(numbers, default=0) + longest))
        case "string" | "pprint" | "xmlattr" | "sort" | "unique" | "sum" | "min" | "max" | "groupby", _:
            budget.weigh([value, given])


def _check_operation(operator: str, left: Any, right: Any, budget: Budget) -> None:
    match operator:
        case "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, str | bytes | list | tuple) and isinstance(times, int):
                    budget.spend(len(value) * max(0, times))
            _check_bits(left, right, _bits(left) + _bits(right))
        case "**":
            _check_bits(left, right, _bits(left) * abs(right) if isinstance(right, int) else 0)
        case "%" if isinstance(left, str):
            _check_format(left, [right], budget)
        case "+":
            budget.spend(sum(len(each) for each in (left, right) if isinstance(each, str | list | tuple)))


def _check_format(form: str, given: list[Any], budget: Budget) -> None:
    """A form has at most as many places as characters, and each holds all that is given, or is padded."""
    if _WIDTHS.search(form) or any(isinstance(each, int) and abs(each) > _MOST_WIDTH for each in given):
        raise TooMuch(f"it pads a text to more than {_MOST_WIDTH} characters")
    places = form.count("%") + form.count("{")
    budget.spend(places * (budget.weigh(given) + _MOST_WIDTH))


def _check_bits(left: Any, right: Any, bits: float) -> None:
    if isinstance(left, int) and isinstance(right, int) and bits > _MOST_BITS:
        raise TooMuch("it computes with huge numbers")


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _budget(context: Context) -> Budget:
    budget = context.parent.get(_BUDGET)
    # One that is rendered without has none to spend.
    return budget if isinstance(budget, Budget) else Budget(0, 0.0)
