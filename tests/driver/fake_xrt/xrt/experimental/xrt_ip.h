// Registers of a kernel that is called top.

#pragma once

#include "../xrt_device.h"

namespace xrt {

class ip {
public:
    ip(const device&, const uuid&, const std::string& name) {
        if (name != "top") throw std::runtime_error("no such ip " + name);
    }
    uint32_t read_register(uint32_t offset) const { return fake::hooks.read(offset); }
    void write_register(uint32_t offset, uint32_t value) { fake::hooks.write(offset, value); }
};

}  // namespace xrt
