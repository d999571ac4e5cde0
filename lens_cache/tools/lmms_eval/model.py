"""The model of lmms-eval: the agent of a trained head, which answers in words or with masks.

lmms-eval --model lens_cache --model_args pretrained=shapes --tasks mmstar
"""

from __future__ import annotations

import json
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from lens_cache.agent.agent import LensAgent
from lens_cache.errors import ConfigError
from lens_cache.predictor import LensPredictor, Segmentation

# A task whose ``generation_kwargs`` have it wants a mask, whatever the agent would do.
SEGMENT = "segment"


class LensCache(lmms):  # type: ignore[misc]
    """Answers one image and one text at a time; greedy, so that answers repeat."""

    is_simple = False

    def __init__(
        self,
        pretrained: str = "shapes",
        device: str | None = None,
        batch_size: int | str = 1,
        **settings: Any,
    ) -> None:
        """Load a head and its frozen models.

        Args:
            pretrained: See ``LensPredictor.from_pretrained``.
            device: Device of all models; a GPU if there is one by default.
            batch_size: 1, or ``auto``: questions run one by one.
            settings: No others are known.

        Raises:
            ConfigError: If a setting is not known, or the batch is larger than 1.
        """
        super().__init__()
        if settings:
            raise ConfigError(f"--model_args: unknown {', '.join(sorted(settings))}")
        if str(batch_size) not in ("1", "auto"):
            raise ConfigError(f"--batch_size: expected 1, found {batch_size}")
        self._predictor = LensPredictor.from_pretrained(
            pretrained, device=None if device in (None, "cuda:0") else device, chat=True
        )

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answer requests: text, or a JSON document with masks, boxes and scores.

        The document is that of lmms-eval's ``sam3``: COCO RLE in the size of the image, boxes in
        shares of it, and the expected IoU as score.

        Raises:
            ConfigError: If a request has no image, or several.
        """
        answers = []
        for request in tqdm(requests, desc="lens_cache"):
            _, to_messages, settings, document, task, split = request.args
            messages = ChatMessages(messages=to_messages(self.task_dict[task][split][document]))
            images, _, _ = messages.extract_media()
            if len(images) != 1:
                raise ConfigError(
                    f"answering document {document} of {task}: expected one image, found "
                    f"{len(images)}"
                )
            text = "\n".join(
                content.text
                for message in messages.messages
                for content in message.content
                if content.type == "text"
            )
            answers.append(self._answer(images[0], text, bool(settings.get(SEGMENT))))
        return answers

    def _answer(self, image: Any, text: str, segment: bool) -> str:
        if segment:
            return masks_json([self._predictor(image, text)])
        reply = LensAgent(self._predictor)(text, image)
        return masks_json([reply.segmentation]) if reply.segmentation else reply.text

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not supported: LENS has no likelihood of a mask.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("lens_cache: tasks by likelihood are not supported; use one by answers")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not supported: each document is a conversation of its own.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("lens_cache: tasks of several rounds are not supported")


def masks_json(found: list[Segmentation]) -> str:
    """Return masks in the JSON document of lmms-eval's ``sam3``."""
    boxes = []
    for one in found:
        height, width = one.mask.shape
        left, top, across, down = one.box or (0, 0, 0, 0)
        boxes.append(
            {
                "x_min": left / width,
                "y_min": top / height,
                "x_max": (left + across) / width,
                "y_max": (top + down) / height,
            }
        )
    return json.dumps(
        {
            "masks": [one.to_coco()["segmentation"] for one in found],
            "boxes": boxes,
            "scores": [one.score for one in found],
        }
    )
