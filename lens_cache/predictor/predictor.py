"""Predict masks from images and instructions, with a trained head and the frozen models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import overload

from numpy.typing import ArrayLike

from lens_cache.encoders.llava_chat import ChatImage, LlavaChat
from lens_cache.errors import ConfigError
from lens_cache.features.types import ImageFeatures, default_device
from lens_cache.images.inputs import ImageInput, rgb_pixels
from lens_cache.predictor.checks import checked_clicks, require_instruction
from lens_cache.predictor.encoded_images import EncodedImage, EncodedImages
from lens_cache.predictor.segmentation import Click, Segmentation
from lens_cache.predictor.segmenter import Segmenter
from lens_cache.predictor.trained_head import TrainedHead
from lens_cache.training.run import Run, Which


class LensPredictor:
    """Segments images by instruction; the frozen models and the head stay loaded.

    An image is encoded once, however many instructions follow; the last ``cache_images`` images
    stay encoded. Calls from several threads run one after another.

    Example:
        >>> predictor = LensPredictor.from_pretrained("shapes")
        >>> predictor("picture.png", "the red ring").save("mask.png")

        Several instructions about one image run the encoders once:

        >>> dog, ball = predictor("photo.jpg", ["the dog", "the ball"])

        A click corrects the last mask, as in SAM:

        >>> predictor.correct(points=[(64, 30)], labels=[1]).save("mask.png")
    """

    def __init__(
        self,
        run: Run | str | Path | TrainedHead,
        *,
        overrides: tuple[str, ...] = (),
        which: Which | None = None,
        device: str | None = None,
        chat: bool = False,
        cache_images: int = 8,
    ) -> None:
        """Load a trained head and the frozen models it was trained on.

        Args:
            run: The training run, its folder, or an exported head.
            overrides: Paths on this machine, e.g. ``encoders.root=/checkpoints``.
            which: Checkpoint of a run; by default the best one, or the last one if there is no best
                one.
            device: Device of all models; ``cuda`` by default if there is a GPU, otherwise ``cpu``.
            chat: Load all layers of the multimodal LLM, so that ``answer`` works.
            cache_images: Images that stay encoded.

        Raises:
            CheckpointError: If it is no run, or weights are missing.
            StoreMismatchError: If the frozen models are not those of the head.
        """
        head = run if isinstance(run, TrainedHead) else TrainedHead.of_run(run, which)
        self.head = head
        self.device = device or default_device()
        # Frozen models and head, for evaluations and benchmarks.
        self.segmenter = Segmenter(head, overrides, self.device, chat=chat)
        self._images = EncodedImages(self.segmenter.frozen, cache_images)
        self._lock = RLock()
        self._image: EncodedImage | None = None
        self._last: Segmentation | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        overrides: tuple[str, ...] = (),
        device: str | None = None,
        chat: bool = False,
        cache_images: int = 8,
    ) -> LensPredictor:
        """Load an exported head and the frozen models it was trained on.

        Args:
            name: A folder that ``lens-cache export`` wrote, an id of the Hugging Face hub, or
                ``shapes`` for the head of the world of shapes that comes with the package.
            revision: Branch, tag or commit of a hub id.
            overrides: See ``LensPredictor``.
            device: See ``LensPredictor``.
            chat: See ``LensPredictor``.
            cache_images: See ``LensPredictor``.

        Raises:
            CheckpointError: If the head or the frozen models are missing or damaged.
            StoreMismatchError: If the frozen models are not those of the head.
        """
        return cls(
            TrainedHead.from_pretrained(name, revision),
            overrides=overrides,
            device=device,
            chat=chat,
            cache_images=cache_images,
        )

    @overload
    def __call__(self, image: ImageInput, instruction: str) -> Segmentation: ...

    @overload
    def __call__(
        self, image: ImageInput, instruction: list[str] | tuple[str, ...]
    ) -> list[Segmentation]: ...

    def __call__(
        self, image: ImageInput, instruction: str | list[str] | tuple[str, ...]
    ) -> Segmentation | list[Segmentation]:
        """Segment an image by one instruction or several: ``set_image``, then ``predict``.

        Args:
            image: A path, the bytes of an image file, a PIL image or an array; see ``rgb_pixels``.
            instruction: One instruction, or several.

        Returns:
            A mask with its score; for several instructions a list.

        Raises:
            ConfigError: If an instruction is empty or too long.
            ImageError: If the image cannot be read.
        """
        asked = [instruction] if isinstance(instruction, str) else list(instruction)
        found = self.batch([image], [asked])[0]
        return found[0] if isinstance(instruction, str) else found

    def set_image(self, image: ImageInput) -> None:
        """Choose the image of every later call of ``predict``, and encode it.

        Args:
            image: See ``__call__``.

        Raises:
            ImageError: If the image cannot be read.
        """
        pixels = rgb_pixels(image)
        with self._lock:
            self._image = self._images.get(pixels)
            self._last = None
            _ = self._image.llava, self._image.embedding

    def predict(self, instruction: str) -> Segmentation:
        """Segment the image of the last ``set_image`` by an instruction.

        Raises:
            ConfigError: If the instruction is empty or too long, or no image was set.
        """
        require_instruction(instruction)
        with self._lock:
            if self._image is None:
                raise ConfigError("segmenting: no image is set; call set_image(image) first")
            return self._segment([(self._image, [instruction])])[0][0]

    def batch(
        self, images: Sequence[ImageInput], instructions: Sequence[Sequence[str]]
    ) -> list[list[Segmentation]]:
        """Segment several images, each by its instructions, with one pass of the head.

        Args:
            images: The images; the same image may occur several times.
            instructions: The instructions of each image, at least one.

        Returns:
            The masks of each image, in the order of its instructions.

        Raises:
            ConfigError: If an image has no instruction, or one is empty or too long.
            ImageError: If an image cannot be read.
        """
        if len(images) != len(instructions):
            raise ConfigError(
                f"segmenting: expected instructions for each of {len(images)} images, found those "
                f"of {len(instructions)}"
            )
        for asked in instructions:
            if isinstance(asked, str) or not asked:
                raise ConfigError("segmenting: expected a list of instructions for each image")
            for instruction in asked:
                require_instruction(instruction)
        pixels = [rgb_pixels(image) for image in images]
        with self._lock:
            encoded = [self._images.get(one) for one in pixels]
            asked_of = [list(asked) for asked in instructions]
            return self._segment(list(zip(encoded, asked_of, strict=True)))

    def correct(self, *, points: ArrayLike, labels: ArrayLike) -> Segmentation:
        """Correct the last mask by clicks, which prompt SAM beside the prompts of LENS.

        Clicks add up until another instruction or image is used. After several instructions it is
        the last one that is corrected.

        Args:
            points: (x, y) in pixels of the image, shape (n, 2) or (2,).
            labels: 1 for a point inside the target, 0 for one outside, shape (n,) or a number.

        Raises:
            ConfigError: If nothing was segmented, or a point is outside the image.
        """
        with self._lock:
            if self._last is None:
                raise ConfigError("correcting: nothing was segmented; call predict first")
            return self.refine(self._last, points=points, labels=labels)

    def refine(
        self, segmentation: Segmentation, *, points: ArrayLike, labels: ArrayLike
    ) -> Segmentation:
        """Correct any mask by clicks, in addition to those that it has; see ``correct``."""
        height, width = segmentation.mask.shape
        clicks = segmentation.clicks + checked_clicks(points, labels, width=width, height=height)
        with self._lock:
            image = self._images.get(segmentation.image)
            return self._segment([(image, [segmentation.instruction])], clicks)[0][0]

    def segment_with_clicks(
        self, image: ImageInput, instruction: str, *, points: ArrayLike, labels: ArrayLike
    ) -> Segmentation:
        """Segment an image by an instruction and clicks; see ``__call__`` and ``correct``."""
        require_instruction(instruction)
        pixels = rgb_pixels(image)
        height, width = pixels.shape[:2]
        clicks = checked_clicks(points, labels, width=width, height=height)
        with self._lock:
            return self._segment([(self._images.get(pixels), [instruction])], clicks)[0][0]

    @property
    def can_answer(self) -> bool:
        """Whether all layers of the multimodal LLM are loaded, so that ``answer`` works."""
        return isinstance(self.segmenter.frozen.llava, LlavaChat)

    def answer(self, image: ImageInput, text: str, *, max_new_tokens: int = 256) -> str:
        """Return what the multimodal LLM answers in words; LENS plays no part in it.

        Args:
            image: See ``__call__``.
            text: What to answer.
            max_new_tokens: Most tokens of the answer.

        Raises:
            ConfigError: If the text is empty or too long, or the predictor was loaded without
                ``chat=True``.
            ImageError: If the image cannot be read.
        """
        require_instruction(text)
        pixels = rgb_pixels(image)
        with self._lock:
            read = self._images.get(pixels).llava
            if not isinstance(read, ChatImage):
                raise ConfigError(
                    "answering: only the first layers of the multimodal LLM are loaded; load the "
                    "predictor with chat=True"
                )
            return read.answer(text, max_new_tokens)

    def features(self, image: ImageInput, questions: Sequence[str]) -> ImageFeatures:
        """Return the features of an image and its questions, as an extraction stores them.

        Args:
            image: See ``__call__``.
            questions: Complete questions for the multimodal LLM, such as those of a plan.

        Raises:
            ImageError: If the image cannot be read.
        """
        pixels = rgb_pixels(image)
        with self._lock:
            return self.segmenter.features(self._images.get(pixels), questions)

    def _segment(
        self, asked: Sequence[tuple[EncodedImage, list[str]]], clicks: tuple[Click, ...] = ()
    ) -> list[list[Segmentation]]:
        """Segment, and keep the last image and mask for ``predict`` and ``correct``."""
        found = self.segmenter.segment(asked, clicks)
        self._image, self._last = asked[-1][0], found[-1][-1]
        return found
