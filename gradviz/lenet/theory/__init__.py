"""What theory says about a LeNet before it has learnt anything: `predict` answers, docs/theory.md derives."""
