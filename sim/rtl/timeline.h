// SPDX-License-Identifier: Apache-2.0
// What each unit executed when, recorded from the core's trace outputs.
#pragma once

#include "axi_memory.h"

namespace catenary {

// One instruction from its first to its last active cycle.
struct Slice {
    uint64_t begin, end;
    uint32_t unit, pc;
};

class Timeline {
public:
    bool recording = false;
    std::vector<Slice> slices;

    void add_unit(const Field* active, const Field* pc) { units_.push_back({active, pc, 0, 0, false}); }

    void sample(uint64_t now) {
        for (size_t index = 0; index < units_.size(); index++) {
            Unit& unit = units_[index];
            const bool active = unit.active->get();
            const uint32_t pc = active ? uint32_t(unit.pc->get()) : 0;
            if (unit.running && !(active && pc == unit.now)) {
                slices.push_back({unit.begin, now, uint32_t(index), unit.now});
                unit.running = false;
            }
            if (active && !unit.running) unit.running = true, unit.begin = now, unit.now = pc;
        }
    }

private:
    struct Unit {
        const Field *active, *pc;
        uint64_t begin;
        uint32_t now;
        bool running;
    };

    std::vector<Unit> units_;
};

}  // namespace catenary
