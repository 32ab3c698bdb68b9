// SPDX-License-Identifier: Apache-2.0
// A small seeded generator (SplitMix64, Steele, Lea and Flood 2014): the same stalls on every machine.
#pragma once

#include <cstdint>

namespace catenary {

class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}

    uint64_t next() {
        uint64_t value = state_ += 0x9e3779b97f4a7c15;
        value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
        value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
        return value ^ (value >> 31);
    }

    // True with the given probability; draws nothing where the answer is certain.
    bool chance(double probability) {
        if (probability <= 0) return false;
        return probability >= 1 || double(next() >> 11) * 0x1p-53 < probability;
    }

private:
    uint64_t state_;
};

}  // namespace catenary
