"""Words with a token of their own in the tiny LLaVA; it has all words of the world of shapes.

The token ids of the trained checkpoint depend on this list, so a change needs a new training.
"""

from __future__ import annotations

_TEXT = (
    "Can Describe How Is List Look Please Point Show What Where Which a above all an and are "
    "around as at away ball bananas be below blood blue box can carrots circle circles colour "
    "corners could cut down exactly find finger fits five for four fresh glows grass green has "
    "here hill hole image in is it large lavender leaves left leftmost lemons like looked looks "
    "lowest many mark me night no object objects of on one orange out outline picture please "
    "plums points pumpkins purple red right rightmost ring rings ripe roll rolls roof same sea "
    "segment shape shines show six size sky small square squares star stars tent that the them "
    "there these thing things this three through tips to tomatoes topmost triangle triangles "
    "two what where which window worn yellow yes you zero "
)
# Of the requests to an agent.
_REQUESTS = (
    "And Answer Are Cut Do Find Good Goodbye Hello Hi I Mark Name Outline Request Route Segment "
    "Tell Thank Thanks That Who You about am answer before colours cup cups describe dialogue did "
    "do does evening fine follow-up good have how its know knows last made marked model morning "
    "oldest or other person question questions request requests route see segmentation shapes "
    "side they tiny was welcome who with word Compare Could Count Did Does Draw Explain Give Help "
    "Highlight Make Say See Select Well Why Would any call count done explain found help line "
    "look mask more name need next select something sure tell than think want Now Only Was again "
    "always anything everything figure figures give goodbye highlight item items larger likes "
    "looking ones only piece pieces say thanks would "
)
# Of the prompts of benchmarks.
_CHOICES = "A B C D choices directly. from given letter No option's Yes"
WORDS = (*_TEXT.split(), *_REQUESTS.split(), *_CHOICES.split())
