// SPDX-License-Identifier: Apache-2.0
// Memory behind one AXI4 port: a subordinate (slave) with the timing of the memory model, which also checks the
// manager's side of the protocol (ARM IHI 0022, A3).
//
// The model is as late as the protocol allows: a read returns what memory held when its address was accepted, a write
// is seen with its response and not before. So a core that does not wait for its responses computes something else.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "field.h"
#include "random.h"

namespace catenary {

struct MemoryTiming {
    uint64_t blocked;      // cycles of every period in which no data moves
    uint64_t period;       // 0: never blocked
    uint64_t latency;      // cycles from an accepted address to its first data, and from the last data to a response
    uint64_t outstanding;  // bursts that each of the two address channels takes in advance
    double share;          // of the cycles that are not blocked, the share in which a beat may move
    double stall;          // probability that a channel that could go on does not, in a cycle
};

struct MemoryStatistics {
    uint64_t read_bytes;      // of beats that the manager took
    uint64_t written_bytes;   // of beats that it sent, without regard to strobes
    uint64_t offered_cycles;  // cycles in which a beat could have moved
};

struct ErrorRange {
    uint64_t first, end;  // bytes
    bool reads, writes;
};

enum Response : uint8_t { OKAY = 0, SLVERR = 2, DECERR = 3 };

using FindField = std::function<const Field*(const std::string&)>;
using Report = std::function<void(const std::string&)>;

class MemoryPort {
public:
    MemoryPort(const FindField& find, Report report, const MemoryTiming& timing, uint64_t seed)
        : read_address_(find, "ar"), write_address_(find, "aw"), report_(std::move(report)), timing_(timing), random_(seed) {
        rid_ = find("rid"), rdata_ = find("rdata"), rresp_ = find("rresp"), rlast_ = find("rlast");
        rvalid_ = find("rvalid"), rready_ = find("rready");
        wdata_ = find("wdata"), wstrb_ = find("wstrb"), wlast_ = find("wlast");
        wvalid_ = find("wvalid"), wready_ = find("wready");
        bid_ = find("bid"), bresp_ = find("bresp"), bvalid_ = find("bvalid"), bready_ = find("bready");
        bytes_ = rdata_->width / 8;
        beat_.resize(std::max<size_t>(bytes_ / 4, 2));
        held_.resize(beat_.size());
        strobes_.resize(std::max<size_t>((bytes_ + 31) / 32, 2));
        phase_ = timing_.period ? random_.next() % timing_.period : 0;
    }

    std::vector<ErrorRange> errors;
    MemoryStatistics statistics{};

    void attach(uint8_t* data, uint64_t size) { data_ = data, size_ = size; }

    void reset() {
        reads_.clear(), writes_.clear(), responses_.clear();
        read_address_.ready = write_address_.ready = rvalid_now_ = wready_now_ = bvalid_now_ = w_waiting_ = false;
        read_address_.waiting = write_address_.waiting = false;
        apply();
    }

    // Look at the handshakes of cycle `now`, whose signals have settled.
    void sample(uint64_t now) {
        if (read_address_.transfers(report_)) accept_read(now);
        if (write_address_.transfers(report_)) accept_write();
        if (rvalid_now_ && rready_->get()) {
            statistics.read_bytes += bytes_;
            rvalid_now_ = false;
            if (++reads_.front().beat == reads_.front().beats) reads_.pop_front();
        }
        take_data(now);
        if (bvalid_now_ && bready_->get()) {
            bvalid_now_ = false;
            responses_.pop_front();
        }
    }

    // Decide the inputs of cycle `now`, after the edge that begins it.
    void drive(uint64_t now) {
        const bool open = !timing_.period || (now + phase_) % timing_.period >= timing_.blocked;
        if (open) credit_ = std::min(credit_ + timing_.share, 1 + timing_.share);
        const bool offer = open && credit_ >= 1;
        statistics.offered_cycles += offer;
        const bool read = !rvalid_now_ && !reads_.empty() && now >= reads_.front().ready_at;
        const bool write = !writes_.empty();
        wready_now_ = offer && write && !(read && reads_turn_) && !random_.chance(timing_.stall);
        if (offer && read && !wready_now_ && !random_.chance(timing_.stall)) present_read();
        if (read && write) reads_turn_ = !reads_turn_;
        if (!bvalid_now_ && !responses_.empty() && now >= responses_.front().ready_at && !random_.chance(timing_.stall)) {
            present_response();
        }
        read_address_.ready = reads_.size() < timing_.outstanding && !random_.chance(timing_.stall);
        write_address_.ready = writes_.size() < timing_.outstanding && !random_.chance(timing_.stall);
        apply();
    }

private:
    struct Burst {
        uint64_t id, address, beats, beat, ready_at;
        Response response;
        std::vector<uint8_t> data;
        std::vector<uint8_t> strobes;  // one byte a byte; writes only
    };

    // AR or AW.
    struct AddressChannel {
        std::string name;
        const Field *id, *addr, *len, *size, *burst, *valid, *ready_port;
        bool ready = false, waiting = false;
        uint64_t held[5] = {};

        AddressChannel(const FindField& find, const std::string& prefix) : name(prefix) {
            id = find(prefix + "id"), addr = find(prefix + "addr"), len = find(prefix + "len");
            size = find(prefix + "size"), burst = find(prefix + "burst");
            valid = find(prefix + "valid"), ready_port = find(prefix + "ready");
        }

        // Whether an address is transferred in this cycle; reports one that is withdrawn or changed.
        bool transfers(const Report& report) {
            const bool offered = valid->get();
            if (!offered) {
                if (waiting) report(name + "valid fell before " + name + "ready rose");
                return waiting = false;
            }
            const uint64_t now[5] = {id->get(), addr->get(), len->get(), size->get(), burst->get()};
            if (waiting && !std::equal(now, now + 5, held)) report(name + " changed while it waited");
            std::copy(now, now + 5, held);
            waiting = !ready;
            return ready;
        }
    };

    Burst burst_of(const AddressChannel& channel) {
        const uint64_t address = channel.held[1], beats = channel.held[2] + 1;
        const uint64_t size = channel.held[3], kind = channel.held[4];
        if (kind != 1) report_(channel.name + "burst is not INCR");
        if (uint64_t{1} << size != bytes_) report_(channel.name + "size is not the width of the port");
        if (address % bytes_) report_(channel.name + "addr is not aligned");
        if (address / 4096 != (address + beats * bytes_ - 1) / 4096) report_(channel.name + " burst crosses 4 KB");
        return {channel.held[0], address, beats, 0, 0, OKAY, {}, {}};
    }

    Response response_of(const Burst& burst, bool write) const {
        const uint64_t end = burst.address + burst.beats * bytes_;
        if (end > size_) return DECERR;
        for (const ErrorRange& range : errors) {
            if ((write ? range.writes : range.reads) && burst.address < range.end && range.first < end) return SLVERR;
        }
        return OKAY;
    }

    void accept_read(uint64_t now) {
        Burst burst = burst_of(read_address_);
        burst.ready_at = now + timing_.latency;
        burst.response = response_of(burst, false);
        const size_t total = burst.beats * bytes_;
        if (burst.address + total <= size_) burst.data.assign(data_ + burst.address, data_ + burst.address + total);
        else burst.data.assign(total, 0);
        reads_.push_back(std::move(burst));
    }

    void accept_write() {
        writes_.push_back(burst_of(write_address_));
        writes_.back().response = response_of(writes_.back(), true);
    }

    // The W channel: data goes to the oldest burst; a burst leaves writes_ when it has all of its data.
    void take_data(uint64_t now) {
        const bool offered = wvalid_->get();
        if (!offered) {
            if (w_waiting_) report_("wvalid fell before wready rose");
            w_waiting_ = false;
            return;
        }
        wdata_->get_words(beat_.data());
        if (w_waiting_ && beat_ != held_) report_("wdata changed while it waited");
        w_waiting_ = !wready_now_;
        if (!wready_now_) {
            held_ = beat_;
            return;
        }
        credit_ -= 1;
        statistics.written_bytes += bytes_;
        Burst& burst = writes_.front();
        const auto* data = reinterpret_cast<const uint8_t*>(beat_.data());
        burst.data.insert(burst.data.end(), data, data + bytes_);
        wstrb_->get_words(strobes_.data());
        for (uint64_t byte = 0; byte < bytes_; byte++) burst.strobes.push_back(strobes_[byte / 32] >> byte % 32 & 1);
        const bool last = ++burst.beat == burst.beats;
        if (last != bool(wlast_->get())) report_("wlast does not mark the last beat");
        if (last) {
            burst.ready_at = now + timing_.latency;
            responses_.push_back(std::move(burst));
            writes_.pop_front();
        }
    }

    void present_read() {
        const Burst& burst = reads_.front();
        std::memcpy(beat_.data(), burst.data.data() + burst.beat * bytes_, bytes_);
        rid_->set(burst.id);
        rdata_->set_words(beat_.data());
        rresp_->set(burst.response);
        rlast_->set(burst.beat + 1 == burst.beats);
        rvalid_now_ = true;
        credit_ -= 1;
    }

    void present_response() {
        const Burst& burst = responses_.front();
        for (uint64_t byte = 0; burst.response == OKAY && byte < burst.data.size(); byte++) {
            if (burst.strobes[byte]) data_[burst.address + byte] = burst.data[byte];
        }
        bid_->set(burst.id);
        bresp_->set(burst.response);
        bvalid_now_ = true;
    }

    void apply() {
        read_address_.ready_port->set(read_address_.ready);
        write_address_.ready_port->set(write_address_.ready);
        rvalid_->set(rvalid_now_);
        wready_->set(wready_now_);
        bvalid_->set(bvalid_now_);
    }

    AddressChannel read_address_, write_address_;
    const Field *rid_, *rdata_, *rresp_, *rlast_, *rvalid_, *rready_;
    const Field *wdata_, *wstrb_, *wlast_, *wvalid_, *wready_;
    const Field *bid_, *bresp_, *bvalid_, *bready_;
    Report report_;
    MemoryTiming timing_;
    Random random_;
    uint64_t bytes_, phase_;
    uint8_t* data_ = nullptr;
    uint64_t size_ = 0;
    double credit_ = 0;
    bool reads_turn_ = false;
    bool rvalid_now_ = false, wready_now_ = false, bvalid_now_ = false, w_waiting_ = false;
    std::deque<Burst> reads_, writes_, responses_;
    std::vector<uint32_t> beat_, held_, strobes_;
};

}  // namespace catenary
