"""transformers' own test suites, run on this model. They need a checkout of transformers, which is not part of this.

    git clone --depth 1 --branch v5.23.0 https://github.com/huggingface/transformers
    pip install parameterized
    TRANSFORMERS_CHECKOUT=transformers python -m pytest tests/upstream -q

Take the tag of the installed transformers. The suites cover the configuration, loading and saving, attention
implementations, caches, every way to generate, compilation, training and the pipelines; what the suites skip for a
model like Llama they skip here.
"""

import os
import sys
import unittest
from pathlib import Path

import pytest

from configuration_tinystories import TinyStoriesConfig
from modeling_tinystories import TinyStoriesForCausalLM, TinyStoriesForSequenceClassification, TinyStoriesModel


pytestmark = pytest.mark.slow

CHECKOUT = os.environ.get("TRANSFORMERS_CHECKOUT")
if not CHECKOUT:
    pytest.skip(
        "TRANSFORMERS_CHECKOUT does not name a checkout of transformers, which has these tests",
        allow_module_level=True,
    )
sys.path.insert(0, str(Path(CHECKOUT).resolve()))  # their test modules import each other as the package `tests`

from tests.causal_lm_tester import CausalLMModelTest, CausalLMModelTester  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402

import tinystories.checkpoint.loading  # noqa: E402, F401 (registers the classes with the Auto classes)


# From these tables the suites know which class has a loss, and with which labels.
modeling_auto.MODEL_MAPPING_NAMES["tinystories"] = "TinyStoriesModel"
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["tinystories"] = "TinyStoriesForCausalLM"
modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["tinystories"] = "TinyStoriesForSequenceClassification"


class TinyStoriesModelTester(CausalLMModelTester):
    config_class = TinyStoriesConfig
    base_model_class = TinyStoriesModel
    causal_lm_class = TinyStoriesForCausalLM
    sequence_classification_class = TinyStoriesForSequenceClassification


class TinyStoriesModelTest(CausalLMModelTest, unittest.TestCase):
    model_tester_class = TinyStoriesModelTester
    _torch_compile_train_cls = TinyStoriesForCausalLM
