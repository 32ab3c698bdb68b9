// SPDX-License-Identifier: Apache-2.0
// Clocks a component for tests/hw/compiled.py. A cycle is: set inputs, settle, look at outputs, rising edge.
#include <memory>

#include "ports.h"
#include "random.h"

using catenary::Field;

namespace {

// One value a cycle, or an item: uint64 for fields of up to 64 bits, else ceil(width / 32) words of 32 bits.
struct Column {
    uint32_t field;
    uint8_t* data;
};

struct Stream {
    uint32_t valid;
    uint32_t ready;
    uint64_t count;    // items to send, or room for items to receive
    double pace;       // probability that a cycle offers (or accepts) an item
    uint32_t columns;  // how many of the columns are this stream's
    uint64_t done;     // items transferred
};

struct Model {
    std::unique_ptr<VerilatedContext> context = std::make_unique<VerilatedContext>();
    std::unique_ptr<Vtop> top;
    std::vector<Field> fields;

    Model() : top(std::make_unique<Vtop>(context.get())), fields(catenary::fields(*top)) { reset(); }

    void settle() { top->eval(); }

    void edge() {
        catenary::set_clock(*top, true);
        top->eval();
        catenary::set_clock(*top, false);
    }

    void reset() {
        catenary::set_clock(*top, false);
        catenary::set_reset(*top, true);
        settle();
        edge();
        catenary::set_reset(*top, false);
        settle();
    }

    static size_t bytes(const Field& field) { return field.width <= 64 ? 8 : (field.width + 31) / 32 * 4; }

    void put(const Column& column, uint64_t index) const {
        const Field& field = fields[column.field];
        const uint8_t* from = column.data + index * bytes(field);
        if (field.width <= 64) {
            field.set(*reinterpret_cast<const uint64_t*>(from));
        } else {
            field.set_words(reinterpret_cast<const uint32_t*>(from));
        }
    }

    void take(const Column& column, uint64_t index) const {
        const Field& field = fields[column.field];
        uint8_t* to = column.data + index * bytes(field);
        if (field.width <= 64) {
            *reinterpret_cast<uint64_t*>(to) = field.get();
        } else {
            field.get_words(reinterpret_cast<uint32_t*>(to));
        }
    }
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Model* model_new() { return new Model; }
EXPORT void model_delete(Model* model) { delete model; }
EXPORT void model_reset(Model* model) { model->reset(); }
EXPORT void model_settle(Model* model) { model->settle(); }
EXPORT void model_put(Model* model, uint32_t field, uint8_t* data) { model->put({field, data}, 0); }
EXPORT void model_take(Model* model, uint32_t field, uint8_t* data) { model->take({field, data}, 0); }

EXPORT void model_step(Model* model, uint64_t cycles) {
    for (uint64_t cycle = 0; cycle < cycles; cycle++) {
        model->settle();
        model->edge();
    }
    model->settle();
}

EXPORT void model_run(Model* model, uint64_t cycles, uint32_t inputs, const Column* input, uint32_t outputs,
                      const Column* output) {
    for (uint64_t cycle = 0; cycle < cycles; cycle++) {
        for (uint32_t index = 0; index < inputs; index++) model->put(input[index], cycle);
        model->settle();
        for (uint32_t index = 0; index < outputs; index++) model->take(output[index], cycle);
        model->edge();
    }
    model->settle();
}

// Move items until every stream has done its count and `tail` more cycles have passed. Returns cycles; sets *fault to
// 1 + index of a sink that took back or changed an offered item, or delivered more than its count.
EXPORT uint64_t model_transfer(Model* model, uint64_t limit, uint64_t tail, uint64_t seed, uint32_t sources,
                               Stream* source, const Column* source_columns, uint32_t sinks, Stream* sink,
                               const Column* sink_columns, const Column* held_columns, uint32_t* fault) {
    catenary::Random random(seed);
    std::vector<char> waiting(sinks, 0);
    std::vector<char> offered(sources, 0);
    *fault = 0;
    uint64_t cycle = 0;
    for (uint64_t rest = tail; cycle < limit; cycle++) {
        bool busy = false;
        const Column* column = source_columns;
        for (uint32_t index = 0; index < sources; index++) {
            Stream& stream = source[index];
            if (!offered[index] && stream.done < stream.count && random.chance(stream.pace)) {
                for (uint32_t part = 0; part < stream.columns; part++) model->put(column[part], stream.done);
                offered[index] = 1;
            }
            model->fields[stream.valid].set(offered[index]);
            column += stream.columns;
            busy |= stream.done < stream.count;
        }
        for (uint32_t index = 0; index < sinks; index++) {
            model->fields[sink[index].ready].set(random.chance(sink[index].pace));
            busy |= sink[index].done < sink[index].count;
        }
        if (!busy && rest-- == 0) break;
        model->settle();
        for (uint32_t index = 0; index < sources; index++) {
            if (offered[index] && model->fields[source[index].ready].get()) {
                offered[index] = 0;
                source[index].done++;
            }
        }
        column = sink_columns;
        const Column* held = held_columns;
        for (uint32_t index = 0; index < sinks; index++) {
            Stream& stream = sink[index];
            const bool valid = model->fields[stream.valid].get();
            bool changed = waiting[index] && !valid;
            if (valid) {
                for (uint32_t part = 0; part < stream.columns; part++) {
                    const size_t size = Model::bytes(model->fields[column[part].field]);
                    std::vector<uint8_t> before(held[part].data, held[part].data + size);
                    model->take(held[part], 0);
                    changed |= waiting[index] && std::memcmp(before.data(), held[part].data, size) != 0;
                }
                if (model->fields[stream.ready].get()) {
                    if (stream.done == stream.count) changed = true;
                    else {
                        for (uint32_t part = 0; part < stream.columns; part++) model->take(column[part], stream.done);
                        stream.done++;
                    }
                    waiting[index] = 0;
                } else {
                    waiting[index] = 1;
                }
            }
            if (changed) {
                *fault = 1 + index;
                return cycle;
            }
            column += stream.columns;
            held += stream.columns;
        }
        model->edge();
    }
    for (uint32_t index = 0; index < sources; index++) model->fields[source[index].valid].set(0);
    for (uint32_t index = 0; index < sinks; index++) model->fields[sink[index].ready].set(0);
    model->settle();
    return cycle;
}
