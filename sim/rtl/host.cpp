// SPDX-License-Identifier: Apache-2.0
// A core with memories behind its AXI4 ports and a host at its AXI4-Lite port: everything that happens every cycle.
// catenary.sim.rtl.simulator calls the functions at the end.
#include <chrono>
#include <memory>
#include <stdexcept>

#include "axi_lite.h"
#include "ports.h"
#include "timeline.h"
#if VM_TRACE_FST
#include "verilated_fst_c.h"
using Waveform = VerilatedFstC;
#elif VM_TRACE_VCD
#include "verilated_vcd_c.h"
using Waveform = VerilatedVcdC;
#endif

namespace catenary {

// How a call ended; catenary.sim.rtl.simulator.Outcome has the same numbers.
enum Outcome : int { DONE = 0, CYCLES_UP = 1, TIME_UP = 2, BROKEN_RULE = 3, NO_ANSWER = 4, REFUSED = 5 };

constexpr uint64_t REGISTER_CYCLES = 100'000;  // patience with one register access
constexpr uint64_t CLOCK_CHECK = 4'096;        // cycles between looks at the wall clock

class Simulation {
public:
    Simulation(const char* const* memories, uint32_t count, const char* control, const char* const* units,
               uint32_t unit_count, const MemoryTiming& timing, uint64_t seed)
        : context_(std::make_unique<VerilatedContext>()) {
#if VM_TRACE
        context_->traceEverOn(true);
#endif
        model_ = std::make_unique<Vtop>(context_.get());
        fields_ = catenary::fields(*model_);
        set_clock(*model_, false);
        model_->eval();
        Random seeds(seed);
        for (uint32_t index = 0; index < count; index++) {
            const std::string name = memories[index];
            auto report = [this, name](const std::string& rule) {
                if (violation.empty()) violation = name + ": " + rule + " (cycle " + std::to_string(now) + ")";
            };
            ports.push_back(std::make_unique<MemoryPort>(finder(name + "."), report, timing, seeds.next()));
        }
        control_ = std::make_unique<RegisterPort>(finder(std::string(control) + "."), timing.stall, seeds.next());
        for (uint32_t index = 0; index < unit_count; index++) {
            const FindField find = finder(std::string(units[index]) + ".");
            timeline.add_unit(find("active"), find("pc"));
        }
    }

    ~Simulation() {
#if VM_TRACE
        if (waveform_) waveform_->close();
#endif
        model_->final();
    }

    uint64_t now = 0;  // cycles since the first reset
    std::string violation;
    std::vector<std::unique_ptr<MemoryPort>> ports;
    Timeline timeline;

    bool trace(const char* path) {
#if VM_TRACE
        waveform_ = std::make_unique<Waveform>();
        model_->trace(waveform_.get(), 99);
        waveform_->open(path);
        return waveform_->isOpen();
#else
        (void)path;
        return false;
#endif
    }

    void flush() {
#if VM_TRACE
        if (waveform_) waveform_->flush();
#endif
    }

    void reset(uint64_t cycles) {
        for (auto& port : ports) port->reset();
        control_->reset();
        set_reset(*model_, true);
        for (uint64_t cycle = 0; cycle < cycles; cycle++) edge();
        set_reset(*model_, false);
        edge();
    }

    // Look at the outputs of this cycle, decide the inputs of the next one.
    void cycle() {
        for (auto& port : ports) {
            port->sample(now);
            port->drive(now + 1);
        }
        control_->sample();
        control_->drive();
        if (timeline.recording) timeline.sample(now);
        edge();
    }

    Outcome access() {
        for (uint64_t limit = now + REGISTER_CYCLES; control_->busy(); cycle()) {
            if (!violation.empty()) return BROKEN_RULE;
            if (now == limit) return NO_ANSWER;
        }
        return control_->response ? REFUSED : DONE;
    }

    Outcome write(uint32_t address, uint32_t value) {
        control_->begin_write(address, value);
        return access();
    }

    Outcome read(uint32_t address, uint32_t* value) {
        control_->begin_read(address);
        const Outcome outcome = access();
        *value = control_->data;
        return outcome;
    }

    // Read a register every `interval` cycles until one of the bits in `mask` is set.
    Outcome wait(uint32_t address, uint32_t mask, uint64_t interval, uint64_t cycles, double seconds) {
        using Clock = std::chrono::steady_clock;
        const auto end = Clock::now() + std::chrono::duration<double>(seconds);
        uint64_t check = now + CLOCK_CHECK;
        for (const uint64_t limit = now + cycles; now < limit;) {
            uint32_t value = 0;
            const Outcome outcome = read(address, &value);
            if (outcome != DONE) return outcome;
            if (value & mask) return DONE;
            for (uint64_t next = std::min(now + interval, limit); now < next;) {
                cycle();
                if (!violation.empty()) return BROKEN_RULE;
                if (now >= check) {
                    if (Clock::now() >= end) return TIME_UP;
                    check = now + CLOCK_CHECK;
                }
            }
        }
        return CYCLES_UP;
    }

private:
    FindField finder(const std::string& prefix) const {
        return [this, prefix](const std::string& name) -> const Field* {
            for (const Field& field : fields_) {
                if (field.path == prefix + name) return &field;
            }
            throw std::runtime_error("no port " + prefix + name);
        };
    }

    // Inputs pass a register (catenary.sim.rtl.simulator.with_input_registers), so nothing but the rising edge changes
    // anything, and outputs have settled behind it: one evaluation of the logic a cycle. Without a waveform to show it
    // in, there is no falling edge either: every change of the clock begins a cycle (catenary.sim.rtl.build, `fast`).
    void edge() {
#if VM_TRACE
        for (const bool high : {true, false}) {
            set_clock(*model_, high);
            model_->eval();
            if (waveform_) waveform_->dump(2 * now + !high);
        }
#else
        clock_ = !clock_;
        set_clock(*model_, clock_);
        model_->eval();
#endif
        now++;
    }

    std::unique_ptr<VerilatedContext> context_;
    std::unique_ptr<Vtop> model_;
    std::vector<Field> fields_;
    std::unique_ptr<RegisterPort> control_;
#if VM_TRACE
    std::unique_ptr<Waveform> waveform_;
#else
    bool clock_ = false;
#endif
};

}  // namespace catenary

using catenary::Simulation;

#define EXPORT extern "C" __attribute__((visibility("default")))

// Null, with a message in `error`, where the model lacks a port.
EXPORT Simulation* host_new(const char* const* memories, uint32_t count, const char* control, const char* const* units,
                            uint32_t unit_count, const catenary::MemoryTiming* timing, uint64_t seed, char* error,
                            uint32_t room) {
    try {
        return new Simulation(memories, count, control, units, unit_count, *timing, seed);
    } catch (const std::runtime_error& problem) {
        std::strncpy(error, problem.what(), room - 1);
        return nullptr;
    }
}

EXPORT void host_delete(Simulation* host) { delete host; }
EXPORT void host_attach(Simulation* host, uint32_t port, uint8_t* data, uint64_t size) {
    host->ports[port]->attach(data, size);
}
EXPORT void host_error(Simulation* host, uint32_t port, uint64_t first, uint64_t end, bool reads, bool writes) {
    host->ports[port]->errors.push_back({first, end, reads, writes});
}
EXPORT void host_clear_errors(Simulation* host) {
    for (auto& port : host->ports) port->errors.clear();
}
EXPORT void host_reset(Simulation* host, uint64_t cycles) { host->reset(cycles); }
EXPORT void host_run(Simulation* host, uint64_t cycles) {
    for (uint64_t cycle = 0; cycle < cycles; cycle++) host->cycle();
}
EXPORT int host_write(Simulation* host, uint32_t address, uint32_t value) { return host->write(address, value); }
EXPORT int host_read(Simulation* host, uint32_t address, uint32_t* value) { return host->read(address, value); }
EXPORT int host_wait(Simulation* host, uint32_t address, uint32_t mask, uint64_t interval, uint64_t cycles,
                     double seconds) {
    return host->wait(address, mask, interval, cycles, seconds);
}
EXPORT uint64_t host_cycles(Simulation* host) { return host->now; }
EXPORT void host_statistics(Simulation* host, uint32_t port, catenary::MemoryStatistics* into) {
    *into = host->ports[port]->statistics;
}
EXPORT const char* host_violation(Simulation* host) { return host->violation.c_str(); }
EXPORT int host_trace(Simulation* host, const char* path) { return host->trace(path); }
EXPORT void host_flush(Simulation* host) { host->flush(); }
EXPORT void host_record(Simulation* host, bool on) { host->timeline.recording = on; }
EXPORT uint64_t host_slices(Simulation* host, const catenary::Slice** slices) {
    *slices = host->timeline.slices.data();
    return host->timeline.slices.size();
}
