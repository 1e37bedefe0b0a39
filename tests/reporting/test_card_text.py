"""Stories on the model card."""

import pytest

from tinystories.reporting.model_card import unedited


@pytest.mark.parametrize("text", ["# Big\n| a | b |\n<b>`x`</b> <!-- hidden", "```python\nprint()\n```", "````", ""])
def test_story_is_text(text):
    """A story on the card stays text, whatever Markdown or HTML is in it."""
    first, *lines, last = unedited(text).split("\n")
    assert first == last + "text" and set(last) == {"`"} and last not in text and "\n".join(lines) == text
