# SPDX-License-Identifier: Apache-2.0
"""Control: dispatch, queues, tokens, and what the host sees."""
