"""Answers that the scripted engine plays for the page: exact, slow, failing and hostile ones."""

from pathlib import Path

from tests.e2e.node import HANG, fail, text, wait, write_script

CALL = {"type": "tool_call", "index": 0, "id": "call_1", "name": "add", "arguments": ""}

SHOWCASE = """\
Here is a short tour. A paragraph holds **bold**, *italic*, `inline code` and a [link](https://example.com/).

## A function

A number is prime when nothing but one and itself divides it, so it is enough to try divisors up to its root:

```python
def is_prime(n: int) -> bool:
    \"\"\"Whether `n` is prime.\"\"\"
    if n < 2:
        return False
    return all(n % d for d in range(2, int(n**0.5) + 1))
```

| Board | NPU | Memory |
|---|---|--:|
| RK3588 | 6 TOPS, three cores | 8 GB |
| RK3576 | 6 TOPS, two cores | 8 GB |

1. Start `exo` on each machine.
2. Open the page on any of them.
   - They find each other.

   ```sh
   exo --port 8000
   ```
3. Ask something.

A paragraph between.

4. Go on.

> Whole requests are spread over the boards.
"""

HOSTILE = """\
<script>window.pwned = 1; alert(1)</script>
<img src="http://198.51.100.7/pixel.png" onerror="window.pwned = 2; alert(2)">
<iframe src="http://198.51.100.7/"></iframe><style>body { display: none }</style>
<form action="http://198.51.100.7/"><button formaction="javascript:alert(3)">go</button></form>
<p style="position:fixed;inset:0" class="scrim" id="composer" onclick="alert(4)">a paragraph</p>
<a href="javascript:window.pwned=5">first</a>
[second](javascript:alert(6)) [third](data:text/html,<script>1</script>)

[fourth](javascript:alert(12)) [fifth](data:text/html;base64,PHNjcmlwdD4=)
[sixth](/quit) [seventh](//198.51.100.7/)
![evil](javascript:alert(13)) <javascript:alert(14)> <sub onclick="alert(15)">low</sub> H<sub>2</sub>O<br>
![a picture](http://198.51.100.7/picture.png) [good](https://example.com/page)

<svg><script>window.pwned = 7</script><animate onbegin=alert(7) attributeName=x dur=1s></svg>
<math><mtext></form><form><mglyph><style></math><img src onerror=alert(8)>
<details open ontoggle="alert(9)"><summary>more</summary>within</details>
<base href="http://198.51.100.7/"><link rel=stylesheet href="http://198.51.100.7/x.css">
<meta http-equiv="refresh" content="0;url=http://198.51.100.7/">

```html"><img src=x onerror=alert(10)>
</code></pre><script>window.pwned = 11</script>
```

the end
"""


# Ten kilobytes as they are written: paragraphs, and now and then a table and code.
CHAPTER = f"{SHOWCASE}\n\n" + f"{'Some **words** and `more` of them. ' * 16}\n\n" * 16


def reasoning(said: str) -> dict[str, object]:
    return {"type": "reasoning", "text": said}


def pieces(whole: str, size: int = 7) -> list[dict[str, object]]:
    return [text(whole[at : at + size]) for at in range(0, len(whole), size)]


def write_all(home: Path) -> None:
    write_script(home, "hello", [text("Hello"), text(", "), text("wörld"), text("!")], slots=4)
    write_script(home, "thinker", [reasoning("They **greet** me.\nSo do I."), text("Hello, you.")])
    # Past its first words it waits to be stopped.
    write_script(home, "ponders", [reasoning("Let me see."), HANG], slots=4)
    write_script(home, "hangs", [text("It has begun"), HANG], slots=16)
    write_script(home, "paced", [text(f"word{i} ") for i in range(40)], pace=0.05, slots=4)
    write_script(home, "broken", [fail("the wheel came off")])
    write_script(home, "breaks-midway", [text("So far so good"), fail("the wheel came off")])
    write_script(
        home,
        "caller",
        [CALL, *({"type": "tool_call", "index": 0, "arguments": piece} for piece in ('{"a":', "2}"))],
    )
    write_script(home, "showcase", [reasoning("A tour, with **code** and a table."), *pieces(SHOWCASE)])
    write_script(home, "hostile", [reasoning(HOSTILE), *pieces(HOSTILE, 5)])
    write_script(home, "long-line", [text("lorem ipsum " * 2000)], repeat=9)
    write_script(home, "huge", [text(CHAPTER)], repeat=100)
    write_script(home, "long-code", [text("```python\n"), *[text("x = 1\n" * 2000)] * 50], pace=0.001)
    write_script(home, "lines", [text(f"line {i}\n\n") for i in range(60)], slots=4)
    write_script(home, "unused", [text("Nobody asks me.")])


PRIMES = """\
A number *n* is prime when nothing but 1 and *n* divides it. It is enough to try divisors up to **√n**: \
of any two factors, one is not larger than that.

```python
def is_prime(n: int) -> bool:
    \"\"\"Whether `n` is prime.\"\"\"
    if n < 2:
        return False
    return all(n % d for d in range(2, int(n**0.5) + 1))
```

| n | tries | answer |
|--:|--:|---|
| 17 | 3 | prime |
| 221 | 12 | 13 times 17 |
"""


def write_pictures(home: Path) -> None:
    """What is in the pictures of the documentation."""
    thought = pieces("Trial division is the simplest way. A table of examples helps.")
    write_script(
        home,
        "primes",
        [*({**each, "type": "reasoning"} for each in thought), wait(1.2), *pieces(PRIMES)],
        pace=0.004,
    )
