"""What Label Studio sends: a project's labelling configuration, and an annotator's regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from lens_cache.errors import ConfigError, one_line, quoted


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """The parts of a labelling configuration that a mask needs.

    Attributes:
        brush: Name of the ``BrushLabels``.
        image: Name of its ``Image``.
        image_field: Field of a task that has the image.
        labels: The labels of the ``BrushLabels``, in order.
        prompt_field: Field of a task that fills the ``TextArea`` of the image; None without one.
    """

    brush: str
    image: str
    image_field: str
    labels: tuple[str, ...]
    prompt_field: str | None

    @classmethod
    def parse(cls, text: object) -> Labelling:
        """Read a configuration.

        Raises:
            ConfigError: If it is no XML, or has no ``BrushLabels`` with labels for an ``Image``.
        """
        where = "the labelling configuration"
        if not isinstance(text, str):
            raise ConfigError(f"{where}: expected XML in label_config, found {type(text).__name__}")
        # Declared entities could grow without limit.
        if "<!" in text.replace("<!--", ""):
            raise ConfigError(f"{where}: expected tags only, found a declaration <!...>")
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise ConfigError(f"{where}: expected XML; {one_line(error)}") from None
        images = {tag.get("name"): tag for tag in root.iter("Image")}
        for brush in root.iter("BrushLabels"):
            image = images.get(brush.get("toName"))
            labels = tuple(
                name
                for label in brush.iter("Label")
                if (name := label.get("alias") or label.get("value"))
            )
            if image is not None and brush.get("name") and labels:
                break
        else:
            raise ConfigError(f"{where}: expected <BrushLabels> with labels for an <Image>")
        field = image.get("value", "")
        if not field.startswith("$"):
            raise ConfigError(f'{where}: expected a field of the task, e.g. <Image value="$image">')
        prompts = [
            area.get("value", "")
            for area in root.iter("TextArea")
            if area.get("toName") == image.get("name")
        ]
        prompt = next((value[1:] for value in prompts if value.startswith("$")), None)
        return cls(
            brush=brush.get("name", ""),
            image=image.get("name", ""),
            image_field=field[1:],
            labels=labels,
            prompt_field=prompt,
        )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an annotator wrote and clicked.

    Attributes:
        text: The text; None if there is none.
        label: The label of the last click; None without a click.
        points: (x, y) of each click, in percent of width and height.
        inside: For each click 1 inside the target, 0 outside.
    """

    text: str | None
    label: str | None
    points: tuple[tuple[float, float], ...]
    inside: tuple[int, ...]

    @classmethod
    def parse(cls, context: object, labels: tuple[str, ...]) -> Asked:
        """Read the regions of ``context``; without a context nothing was asked.

        Args:
            context: ``params.context`` of a request.
            labels: The labels of the project.

        Raises:
            ConfigError: If a region is neither a text nor a click, or its label is unknown.
        """
        if context is None:
            return cls(text=None, label=None, points=(), inside=())
        regions = context.get("result") if isinstance(context, dict) else None
        if not isinstance(regions, list):
            raise ConfigError("reading the context: expected a list of regions in context.result")
        text, label = None, None
        points, inside = [], []
        for region in regions:
            kind = region.get("type") if isinstance(region, dict) else None
            value = region.get("value") if isinstance(region, dict) else None
            if kind == "textarea" and isinstance(value, dict):
                text = _text(value.get("text"))
            elif kind == "keypointlabels" and isinstance(value, dict):
                points.append((_percent(value, "x"), _percent(value, "y")))
                # Without this key the point is a plain one, on the thing.
                inside.append(int(bool(region.get("is_positive", True))))
                label = _label(value.get("keypointlabels"), labels)
                if region.get("image_rotation"):
                    raise ConfigError("reading a click: the image is rotated; turn it back")
            else:
                raise ConfigError(
                    "reading the context: expected a text area or keypoints, found "
                    f"{quoted(kind, 60)}"
                )
        return cls(text=text, label=label, points=tuple(points), inside=tuple(inside))


def _text(lines: object) -> str:
    if isinstance(lines, str):
        lines = [lines]
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ConfigError("reading the text area: expected a list of texts in value.text")
    return " ".join(lines)


def _percent(value: dict[str, Any], name: str) -> float:
    number = value.get(name)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 100:
        raise ConfigError(
            f"reading a click: expected {name} in percent of the image, found {quoted(number, 60)}"
        )
    return float(number)


def _label(names: object, labels: tuple[str, ...]) -> str:
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in labels:
        raise ConfigError(
            f"reading a click: expected a label of the brush, one of {', '.join(labels)}; found "
            f"{quoted(name, 60)}"
        )
    return name
