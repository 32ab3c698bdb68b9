# SPDX-License-Identifier: Apache-2.0
"""Parts of ``tools/train_demo.py``: data, model, numbers, training loop, scoring and files of the demo models."""
