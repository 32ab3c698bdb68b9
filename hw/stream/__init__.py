# SPDX-License-Identifier: Apache-2.0
"""The front of the matrix unit: lines of the weight stream become tiles of INT8 weights."""
