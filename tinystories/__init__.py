"""Train, measure, share and serve small story-writing language models."""
