import pytest

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.llava_image import LlavaImage
from tests.support.llava import QUESTIONS, close, picture, text_ids


@pytest.mark.parametrize("layer", [14, 16])
def test_questions_one_after_another_equal_questions_together(folder, prompt, layer):
    encoder = LlavaEncoder.from_checkpoint(folder, layers=[layer])
    square, texts = picture(), text_ids(prompt, *QUESTIONS)
    expected = encoder.encode(square, texts)
    image = LlavaImage(encoder, square)
    close(image.image_tokens, expected.image_tokens[layer])
    # Twice: a question leaves no trace.
    for text, states in [*zip(texts, expected.text_tokens[layer], strict=True)] * 2:
        close(image.text_tokens([text])[0], states)
    for found, states in zip(image.text_tokens(texts), expected.text_tokens[layer], strict=True):
        close(found, states)


def test_images_do_not_share_their_memory(encoder, prompt):
    (text,) = text_ids(prompt, QUESTIONS[0])
    squares = picture(seed=1), picture(seed=2)
    images = [LlavaImage(encoder, square) for square in squares]
    for square, image in zip(squares, images, strict=True):
        expected = encoder.encode(square, [text])
        close(image.text_tokens([text])[0], expected.text_tokens[encoder.layers[-1]][0])
