// Buffers: the host has a copy.

#pragma once

#include <vector>

#include "xrt_device.h"

enum xclBOSyncDirection { XCL_BO_SYNC_BO_TO_DEVICE, XCL_BO_SYNC_BO_FROM_DEVICE };

namespace xrt {

class bo {
    std::vector<uint8_t> data_;
    uint64_t address_;

public:
    bo(const device&, size_t size, uint32_t) : data_(size, 0xEE), address_(fake::hooks.allocate(size)) {
        if (!address_) throw std::runtime_error("bad_alloc");
    }
    ~bo() { fake::hooks.free(address_, data_.size()); }
    uint64_t address() const { return address_; }
    template <typename T> T map() { return reinterpret_cast<T>(data_.data()); }
    void sync(xclBOSyncDirection direction) {
        if (direction == XCL_BO_SYNC_BO_TO_DEVICE)
            fake::hooks.to_device(address_, data_.data(), data_.size());
        else
            fake::hooks.from_device(address_, data_.data(), data_.size());
    }
};

}  // namespace xrt
