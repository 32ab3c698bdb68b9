// SPDX-License-Identifier: Apache-2.0
// Access to the ports of a Verilated model, and to fields inside them, through a table instead of names.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

namespace catenary {

// Bits offset .. offset + width - 1 of a port. Verilator stores a port in the smallest of 1, 2, 4 or 8 bytes that holds
// its bits, or from 65 bits on in 32-bit words, lowest first.
struct Field {
    std::string path;
    void* port;
    uint32_t port_width;
    uint32_t offset;
    uint32_t width;
    bool output;

    template <class T>
    T& storage() const { return *static_cast<T*>(port); }

    static uint64_t mask(uint32_t width) { return width >= 64 ? ~uint64_t{0} : (uint64_t{1} << width) - 1; }

    // The field's value; its lowest 64 bits where it is wider.
    uint64_t get() const {
        if (port_width <= 8) return (storage<uint8_t>() >> offset) & mask(width);
        if (port_width <= 16) return (storage<uint16_t>() >> offset) & mask(width);
        if (port_width <= 32) return (storage<uint32_t>() >> offset) & mask(width);
        if (port_width <= 64) return (storage<uint64_t>() >> offset) & mask(width);
        return bits(0, width < 64 ? width : 64);
    }

    // Replace the field; bits of the value beyond its width are ignored. Only for fields of up to 64 bits.
    void set(uint64_t value) const {
        if (port_width <= 8) return merge<uint8_t>(value);
        if (port_width <= 16) return merge<uint16_t>(value);
        if (port_width <= 32) return merge<uint32_t>(value);
        if (port_width <= 64) return merge<uint64_t>(value);
        set_bits(0, width < 64 ? width : 64, value);
    }

    // Copy the field to or from ceil(width / 32) words, lowest first; what is above the field in the last one is 0.
    void get_words(uint32_t* words) const {
        if (port_width > 64 && offset % 32 == 0 && width % 32 == 0) {
            std::memcpy(words, &storage<uint32_t>() + offset / 32, width / 8);
            return;
        }
        if (port_width <= 64) {
            const uint64_t value = get();
            std::memcpy(words, &value, width <= 32 ? 4 : 8);
            return;
        }
        for (uint32_t at = 0; at < width; at += 32) *words++ = uint32_t(bits(at, width - at < 32 ? width - at : 32));
    }

    void set_words(const uint32_t* words) const {
        if (port_width > 64 && offset % 32 == 0 && width % 32 == 0) {
            std::memcpy(&storage<uint32_t>() + offset / 32, words, width / 8);
            return;
        }
        if (port_width <= 64) {
            uint64_t value = 0;
            std::memcpy(&value, words, width <= 32 ? 4 : 8);
            set(value);
            return;
        }
        for (uint32_t at = 0; at < width; at += 32) set_bits(at, width - at < 32 ? width - at : 32, *words++);
    }

private:
    template <class T>
    void merge(uint64_t value) const {
        const T ones = T(T(mask(width)) << offset);
        storage<T>() = T((storage<T>() & T(~ones)) | (T(value << offset) & ones));
    }

    uint64_t bits(uint32_t from, uint32_t count) const {
        const uint32_t* words = &storage<uint32_t>();
        const uint32_t first = offset + from;
        uint64_t value = 0;
        for (uint32_t got = 0; got < count;) {
            const uint32_t at = first + got, shift = at % 32;
            value |= uint64_t(words[at / 32] >> shift) << got;
            got += 32 - shift;
        }
        return value & mask(count);
    }

    void set_bits(uint32_t from, uint32_t count, uint64_t value) const {
        uint32_t* words = &storage<uint32_t>();
        for (uint32_t done = 0; done < count;) {
            const uint32_t at = offset + from + done, shift = at % 32;
            const uint32_t step = count - done < 32 - shift ? count - done : 32 - shift;
            const uint32_t ones = uint32_t(mask(step)) << shift;
            words[at / 32] = (words[at / 32] & ~ones) | (uint32_t(value >> done) << shift & ones);
            done += step;
        }
    }
};

}  // namespace catenary
