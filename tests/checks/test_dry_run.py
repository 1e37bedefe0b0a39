"""The first steps of a run, taken without leaving anything behind."""

from types import SimpleNamespace

import numpy as np
import torch

from tinystories.checks.dry_run import _seconds_to_score


class Uniform(torch.nn.Module):
    device = torch.device("cpu")

    def forward(self, input_ids):
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 8))


def test_time_of_many_rows():
    """Some rows of many are scored for their time; a row's story may have any number, also above that of the rows."""
    rows = [
        {"input_ids": np.ones(4), "first_target": 1, "articles": np.zeros(4, bool), "story": story, "ends": True}
        for story in range(200)
    ]
    trainer = SimpleNamespace(
        model=Uniform(),
        evaluation=SimpleNamespace(rows=rows),
        training_stories=SimpleNamespace(rows=[]),
        args=SimpleNamespace(eval_batch_size=4),
        processing_class=SimpleNamespace(pad_token_id=0),
    )
    assert _seconds_to_score(trainer) > 0
