// What the driver needs of XRT (xrt_device.h, xrt_ip.h, xrt_bo.h), as functions of C: XRT's Python
// module has no xrt::ip, through which registers of a user-managed kernel are reached.
//
//   g++ -std=c++17 -O2 -shared -fPIC xrt.cpp -o libhwgen_xrt.so
//       -I$XILINX_XRT/include -L$XILINX_XRT/lib -lxrt_coreutil
//
// Functions return 0, or -1; then hwgen_xrt_error() says why.

#include <cstdint>
#include <exception>
#include <string>

#include <xrt/xrt_bo.h>
#include <xrt/xrt_device.h>
#if __has_include(<xrt/experimental/xrt_ip.h>)
#include <xrt/experimental/xrt_ip.h>
#else
#include <experimental/xrt_ip.h>
#endif

namespace {

thread_local std::string message;

struct Opened {
    xrt::device device;
    xrt::ip ip;
};

template <typename Action> int guarded(Action action) {
    try {
        action();
        return 0;
    } catch (const std::exception& error) {
        message = error.what();
        return -1;
    }
}

}  // namespace

extern "C" {

const char* hwgen_xrt_error() { return message.c_str(); }

int hwgen_xrt_open(const char* device, const char* xclbin, const char* kernel, void** opened) {
    return guarded([&] {
        xrt::device found{std::string(device)};
        const auto identity = found.load_xclbin(std::string(xclbin));
        *opened = new Opened{found, xrt::ip(found, identity, std::string(kernel))};
    });
}

void hwgen_xrt_close(void* opened) { delete static_cast<Opened*>(opened); }

int hwgen_xrt_read(void* opened, uint32_t offset, uint32_t* value) {
    return guarded([&] { *value = static_cast<Opened*>(opened)->ip.read_register(offset); });
}

int hwgen_xrt_write(void* opened, uint32_t offset, uint32_t value) {
    return guarded([&] { static_cast<Opened*>(opened)->ip.write_register(offset, value); });
}

int hwgen_xrt_allocate(void* opened, size_t size, uint32_t bank, void** buffer, uint64_t* address,
                       void** place) {
    return guarded([&] {
        auto* made = new xrt::bo(static_cast<Opened*>(opened)->device, size, bank);
        *buffer = made;
        *address = made->address();
        *place = made->map<uint8_t*>();
    });
}

void hwgen_xrt_free(void* buffer) { delete static_cast<xrt::bo*>(buffer); }

int hwgen_xrt_sync(void* buffer, int from_device) {
    return guarded([&] {
        static_cast<xrt::bo*>(buffer)->sync(from_device ? XCL_BO_SYNC_BO_FROM_DEVICE
                                                        : XCL_BO_SYNC_BO_TO_DEVICE);
    });
}

}  // extern "C"
