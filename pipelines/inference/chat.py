"""A conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from lens_cache.agent.agent import LensAgent, Talker
from lens_cache.errors import LensCacheError, one_line, printable
from lens_cache.predictor import LensPredictor, Segmentation

HELP = """/image PATH          talk about another picture
/masks               list the masks so far
/mask N              make follow-ups about mask N
/click X Y in|out    correct the chosen mask: the point is inside the target, or outside
/help                this list
/quit                end (or Ctrl-D)
Anything else is a request: a question, or what to mark."""


def chat(
    predictor: LensPredictor,
    talker: Talker | None,
    image: Path | None,
    out: Path,
    *,
    lines: Iterator[str] | None = None,
    tell: Callable[[str], None] = print,
) -> None:
    """Talk until the input ends or ``/quit``.

    Args:
        predictor: Makes the masks.
        talker: Talks instead of the predictor's own multimodal LLM.
        image: The first picture; ``/image`` chooses one too.
        out: Folder of the masks, ``001_mask.png`` and ``001_overlay.png`` for the first.
        lines: What the user types; the terminal by default.
        tell: Receives what is said.
    """
    conversation = _Chat(LensAgent(predictor, talker), out, tell)
    if image is None:
        tell("Choose a picture with /image PATH; /help lists the commands.")
    else:
        conversation.image(str(image))
    for line in lines if lines is not None else _typed():
        text = line.strip()
        if text in ("/quit", "/exit"):
            return
        if text:
            try:
                conversation.say(text)
            except LensCacheError as error:
                tell(f"({one_line(error)})")


def _typed() -> Iterator[str]:
    """Yield lines of the terminal, with a prompt; or of a pipe, without."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401  editing and history of input()

    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()


class _Chat:
    def __init__(self, agent: LensAgent, out: Path, tell: Callable[[str], None]) -> None:
        self._agent = agent
        self._out = out
        self._tell = tell
        self._saved: list[Segmentation] = []

    def say(self, text: str) -> None:
        """Run a command, or send a request."""
        if not text.startswith("/"):
            self._request(text)
            return
        name, _, rest = text.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/image": self.image,
            "/masks": self._masks,
            "/mask": self._choose,
            "/click": self._click,
            "/help": lambda _: self._tell(HELP),
        }
        if name not in commands:
            self._tell(f"(unknown command {printable(name)}; /help lists the commands)")
            return
        commands[name](rest.strip())

    def image(self, path: str) -> None:
        """Talk about another picture."""
        self._agent.set_image(Path(path).expanduser())
        assert self._agent.image is not None
        height, width = self._agent.image.shape[:2]
        self._tell(f"({printable(path)}: {width} x {height} pixels)")

    def _request(self, text: str) -> None:
        reply = self._agent(text)
        self._tell(printable(reply.text))
        if reply.segmentation is not None:
            self._saved.append(reply.segmentation)
            self._save(len(self._saved), reply.segmentation)

    def _save(self, number: int, found: Segmentation) -> None:
        self._out.mkdir(parents=True, exist_ok=True)
        mask = self._out / f"{number:03d}_mask.png"
        overlay = self._out / f"{number:03d}_overlay.png"
        found.save(mask)
        found.overlay().save(overlay)
        kind = "expected IoU" if found.calibrated else "stability"
        self._tell(
            f"(mask {number}: {mask} and {overlay}; {kind} {found.score:.2f}, "
            f"{found.mask.mean():.1%} of the picture)"
        )

    def _masks(self, _: str) -> None:
        if not self._saved:
            self._tell("(no masks yet)")
        for number, found in enumerate(self._saved, 1):
            chosen = "*" if found is self._agent.memory.chosen else " "
            self._tell(f"{chosen}{number:3d}  {found.score:.2f}  {printable(found.instruction)}")

    def _choose(self, number: str) -> None:
        found = self._numbered(number)
        if found is not None:
            kept = self._agent.memory.masks
            position = next((i for i, one in enumerate(kept, 1) if one is found), 0)
            self._agent.memory.choose(position)
            self._tell(f'(follow-ups are about mask {number}, "{printable(found.instruction)}")')

    def _numbered(self, number: str) -> Segmentation | None:
        if number.isdigit() and 1 <= int(number) <= len(self._saved):
            return self._saved[int(number) - 1]
        self._tell(f"(expected the number of a mask from 1 to {len(self._saved)}; see /masks)")
        return None

    def _click(self, words: str) -> None:
        try:
            x, y, side = words.split()
            point, inside = (float(x), float(y)), {"in": 1, "out": 0}[side]
        except (ValueError, KeyError):
            self._tell("(expected a point in pixels and in or out, e.g. /click 64 30 in)")
            return
        before = self._agent.memory.chosen
        found = self._agent.correct(points=[point], labels=[inside])
        number = next(i for i, one in enumerate(self._saved) if one is before)
        self._saved[number] = found
        self._save(number + 1, found)
