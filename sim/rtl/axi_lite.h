// SPDX-License-Identifier: Apache-2.0
// The host's side of AXI4-Lite: one access at a time, each channel starting when it likes.
#pragma once

#include "axi_memory.h"

namespace catenary {

class RegisterPort {
public:
    RegisterPort(const FindField& find, double stall, uint64_t seed) : stall_(stall), random_(seed) {
        awaddr_ = find("awaddr"), awvalid_ = find("awvalid"), awready_ = find("awready");
        wdata_ = find("wdata"), wstrb_ = find("wstrb"), wvalid_ = find("wvalid"), wready_ = find("wready");
        bresp_ = find("bresp"), bvalid_ = find("bvalid"), bready_ = find("bready");
        araddr_ = find("araddr"), arvalid_ = find("arvalid"), arready_ = find("arready");
        rdata_ = find("rdata"), rresp_ = find("rresp"), rvalid_ = find("rvalid"), rready_ = find("rready");
    }

    uint32_t data = 0;     // what the last read returned
    uint8_t response = 0;  // of the last access

    void begin_write(uint32_t address, uint32_t value) {
        awaddr_->set(address);
        wdata_->set(value);
        wstrb_->set(0xf);
        address_due_ = data_due_ = write_ = true;
        waiting_ = true;
    }

    void begin_read(uint32_t address) {
        araddr_->set(address);
        address_due_ = true;
        data_due_ = write_ = false;
        waiting_ = true;
    }

    bool busy() const { return waiting_; }

    void reset() {
        waiting_ = address_due_ = data_due_ = false;
        address_valid_ = data_valid_ = ready_ = false;
        apply();
    }

    void sample() {
        if (!waiting_) return;
        if (address_valid_ && (write_ ? awready_ : arready_)->get()) address_valid_ = address_due_ = false;
        if (data_valid_ && wready_->get()) data_valid_ = data_due_ = false;
        if (ready_ && (write_ ? bvalid_ : rvalid_)->get()) {
            response = uint8_t((write_ ? bresp_ : rresp_)->get());
            if (!write_) data = uint32_t(rdata_->get());
            waiting_ = ready_ = false;
        }
    }

    void drive() {
        if (idle_ && !waiting_) return;
        address_valid_ = address_due_ && (address_valid_ || !random_.chance(stall_));
        data_valid_ = data_due_ && (data_valid_ || !random_.chance(stall_));
        ready_ = waiting_ && (ready_ || !random_.chance(stall_));
        apply();
        idle_ = !waiting_;
    }

private:
    void apply() {
        awvalid_->set(write_ && address_valid_);
        wvalid_->set(data_valid_);
        bready_->set(write_ && ready_);
        arvalid_->set(!write_ && address_valid_);
        rready_->set(!write_ && ready_);
    }

    const Field *awaddr_, *awvalid_, *awready_, *wdata_, *wstrb_, *wvalid_, *wready_, *bresp_, *bvalid_, *bready_;
    const Field *araddr_, *arvalid_, *arready_, *rdata_, *rresp_, *rvalid_, *rready_;
    double stall_;
    Random random_;
    bool write_ = false, waiting_ = false, idle_ = false;
    bool address_due_ = false, data_due_ = false, address_valid_ = false, data_valid_ = false, ready_ = false;
};

}  // namespace catenary
