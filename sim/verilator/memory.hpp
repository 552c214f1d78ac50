// Off-chip memory beside a simulated design: one array of bytes behind several AXI4 ports, which
// share one bandwidth, wait for their first data and stand still for refresh, as DDR does.
//
// A cycle is: drive(), which sets the pins that a slave drives; the design settles; sample(), which
// sees what the design drives, moves what both agree on, and ends the program with a message if the
// design breaks the protocol.  Nothing that is driven depends on what the design drives in the same
// cycle.

#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace offchip {

constexpr size_t QUEUE = 16;        // requests that a port takes before it answers, per direction
constexpr size_t WORD_LIMIT = 128;  // bytes of the widest data bus
constexpr uint64_t PAGE = 4096;     // no burst may cross a multiple of it (AMBA AXI, A3.4.1)
constexpr unsigned INCR = 1, OKAY = 0, SLVERR = 2, DECERR = 3;
constexpr int VIOLATION = 7;        // exit status

enum class Fault { NONE, READ_SLVERR, READ_DECERR, WRITE_SLVERR, WRITE_DECERR, SILENT };

struct Random {  // xorshift64*
    uint64_t state;
    explicit Random(uint64_t seed) : state((seed + 1) * 0x9e3779b97f4a7c15ull | 1) {}
    uint64_t next() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return state * 2685821657736338717ull;
    }
    bool below(uint64_t threshold) { return threshold && (next() >> 11) < threshold; }
};

struct Settings {
    double rate = 64;               // bytes a cycle outside refresh, all ports and both directions
    uint64_t latency = 1;           // cycles from an address to its first data, from data to B
    uint64_t jitter = 0;            // cycles that may be added, at random
    uint64_t refresh_interval = 0;  // cycles from one refresh to the next
    uint64_t refresh_cycles = 0;    // cycles of a refresh
    double back_pressure = 0;       // probability of a pause, each cycle and channel
    uint64_t seed = 0;
    Fault fault = Fault::NONE;
    uint64_t fault_at = 0;          // number of the request, of its direction, from 0
    bool recover = false;           // after an error, reset the design and begin again without it

    // From a file of lines "name value".
    static Settings read(const char* path) {
        Settings s;
        FILE* file = fopen(path, "r");
        if (!file) { perror(path); exit(3); }
        char word[32], value[64];
        while (fscanf(file, "%31s %63s", word, value) == 2) {
            const std::string name = word;
            if (name == "rate") s.rate = atof(value);
            else if (name == "latency") s.latency = strtoull(value, nullptr, 10);
            else if (name == "jitter") s.jitter = strtoull(value, nullptr, 10);
            else if (name == "refresh_interval") s.refresh_interval = strtoull(value, nullptr, 10);
            else if (name == "refresh_cycles") s.refresh_cycles = strtoull(value, nullptr, 10);
            else if (name == "back_pressure") s.back_pressure = atof(value);
            else if (name == "seed") s.seed = strtoull(value, nullptr, 10);
            else if (name == "fault") s.fault = kind(value);
            else if (name == "recover") s.recover = atoi(value);
            else if (name == "fault_at") s.fault_at = strtoull(value, nullptr, 10);
            else { fprintf(stderr, "%s: %s is unknown\n", path, word); exit(3); }
        }
        fclose(file);
        return s;
    }

    static Fault kind(const std::string& name) {
        if (name == "read_slverr") return Fault::READ_SLVERR;
        if (name == "read_decerr") return Fault::READ_DECERR;
        if (name == "write_slverr") return Fault::WRITE_SLVERR;
        if (name == "write_decerr") return Fault::WRITE_DECERR;
        if (name == "silent") return Fault::SILENT;
        fprintf(stderr, "fault %s is unknown\n", name.c_str());
        exit(3);
    }
};

// What a design drives on AW or AR.
struct Address {
    uint64_t id = 0, addr = 0;
    unsigned len = 0, size = 0, burst = 0;
    bool operator==(const Address&) const = default;
};

struct Request {
    uint64_t offset = 0, bytes = 0, id = 0;
    uint64_t due = 0;      // cycle from which it may be answered
    unsigned response = OKAY;
    bool silent = false;   // it is never answered
    bool overlaps(const Request& other) const {
        return offset < other.offset + other.bytes && other.offset < offset + bytes;
    }
};

struct Requests {  // a ring of requests, oldest first
    Request items[QUEUE];
    size_t head = 0, count = 0;
    bool full() const { return count == QUEUE; }
    Request& operator[](size_t k) { return items[(head + k) % QUEUE]; }
    void push(const Request& request) { (*this)[count++] = request; }
    void pop() { head = (head + 1) % QUEUE; count--; }
};

// One AXI4 port: its pins, by their names in the protocol, and what is under way at it.
struct Port {
    // Driven by the memory.
    bool awready = false, wready = false, bvalid = false, arready = false, rvalid = false;
    bool rlast = false;
    uint64_t bid = 0, rid = 0;
    unsigned bresp = OKAY, rresp = OKAY;
    alignas(64) uint8_t rdata[WORD_LIMIT] = {};
    // Driven by the design.  The data of W are only looked at in sample().
    Address aw, ar;
    bool awvalid = false, wvalid = false, wlast = false, bready = false, arvalid = false;
    bool rready = false;
    const uint8_t* wdata = nullptr;
    const uint8_t* wstrb = nullptr;
    // Totals: words read, bytes written by their strobes.
    uint64_t bytes_read = 0, bytes_written = 0;

    // What the design offered and the memory did not take must not change.
    bool aw_waits = false, w_waits = false, ar_waits = false;
    Address aw_held, ar_held;
    bool wlast_held = false;
    uint8_t wdata_held[WORD_LIMIT] = {}, wstrb_held[WORD_LIMIT / 8] = {};

    Requests reads, writes;
    uint64_t bytes_given = 0;  // of the oldest read
    size_t filled = 0;         // writes whose data are complete
    uint64_t bytes_taken = 0;  // of the write after those
    bool stopped = false;      // W waits for bandwidth or refresh
};

class Memory {
  public:
    std::vector<Port> ports;
    std::vector<uint8_t> data;
    uint64_t cycle = 0;
    uint64_t held = 0;   // cycles in which data were due, and bandwidth or refresh held them back
    uint64_t moved = 0;  // last cycle in which data moved

    // size: bytes; what the image does not fill is garbage.
    Memory(const Settings& settings, size_t count, size_t word, uint64_t base, uint64_t size,
           const std::vector<uint8_t>& image)
        : ports(count), settings_(settings), random_(settings.seed), word_(word), base_(base),
          size_((size + word - 1) / word * word),
          pause_((uint64_t)(settings.back_pressure * (double)(1ull << 53))) {
        data.resize(size_ + 8);
        for (uint64_t k = 0; k < size_; k += 8) {
            const uint64_t garbage = random_.next();
            memcpy(&data[k], &garbage, 8);
        }
        if (image.size() > size) { fprintf(stderr, "image larger than the memory\n"); exit(3); }
        if (!image.empty()) memcpy(data.data(), image.data(), image.size());
    }

    struct Counts {  // at a moment; bytes of each port
        std::vector<uint64_t> read, written;
        uint64_t held, cycle;
    };

    Counts counts() const {
        Counts c{{}, {}, held, cycle};
        for (const Port& p : ports) {
            c.read.push_back(p.bytes_read);
            c.written.push_back(p.bytes_written);
        }
        return c;
    }

    uint64_t bytes_read() const {
        uint64_t total = 0;
        for (const Port& p : ports) total += p.bytes_read;
        return total;
    }

    uint64_t bytes_written() const {
        uint64_t total = 0;
        for (const Port& p : ports) total += p.bytes_written;
        return total;
    }

    // Cycles after which something has moved if anything will.
    uint64_t patience() const {
        return 1000 + 4 * (settings_.latency + settings_.jitter + settings_.refresh_cycles)
             + (uint64_t)(64.0 * (double)(ports.size() * word_) / settings_.rate);
    }

    void drive() {
        const bool refresh =
            settings_.refresh_cycles
            && phase_ + settings_.refresh_cycles >= settings_.refresh_interval;
        if (++phase_ >= settings_.refresh_interval) phase_ = 0;
        // Bandwidth that nobody used is lost.  A balance may become negative by a few words: only
        // after W was ready is it known whether there was data to take.
        if (!refresh) balance_ = balance_ > 0 ? settings_.rate : balance_ + settings_.rate;
        double left = refresh ? 0 : balance_;
        held_ = false;

        for (Port& p : ports) {
            p.awready = !p.writes.full() && !pause();
            p.arready = !p.reads.full() && !pause();
            if (!p.bvalid && p.filled && p.writes[0].due <= cycle && !p.writes[0].silent
                && !refresh && !pause()) {
                p.bvalid = true;
                p.bid = p.writes[0].id;
                p.bresp = p.writes[0].response;
                p.writes.pop();
                p.filled--;
            }
        }

        // Channels R and W of all ports in turn, from the one that had to wait last.
        const size_t channels = 2 * ports.size();
        size_t next = channels, channel = turn_;
        for (size_t k = 0; k < channels; k++) {
            Port& p = ports[channel / 2];
            if (channel % 2) {
                p.wready = p.stopped = false;
                if (p.writes.count > p.filled) {
                    if (left <= 0) {
                        p.stopped = true;
                        if (next == channels) next = channel;
                    } else if (!pause()) {
                        p.wready = true;
                        if (p.w_waits) left -= (double)word_;
                    }
                }
            } else if (!p.rvalid && p.reads.count && p.reads[0].due <= cycle
                       && !p.reads[0].silent) {
                if (left <= 0) {
                    held_ = true;
                    if (next == channels) next = channel;
                } else if (!pause()) {
                    give(p);
                    left -= (double)word_;
                    balance_ -= (double)word_;
                }
            }
            if (++channel == channels) channel = 0;
        }
        if (next < channels) turn_ = next;
    }

    void sample() {
        for (size_t k = 0; k < ports.size(); k++) {
            Port& p = ports[k];
            stable(k, "AW", p.aw_waits, p.awvalid, p.aw == p.aw_held);
            stable(k, "AR", p.ar_waits, p.arvalid, p.ar == p.ar_held);
            if (p.w_waits)
                stable(k, "W", true, p.wvalid,
                       p.wlast == p.wlast_held && !memcmp(p.wdata, p.wdata_held, word_)
                       && !memcmp(p.wstrb, p.wstrb_held, (word_ + 7) / 8));

            if (p.bvalid && p.bready) p.bvalid = false;
            if (p.rvalid && p.rready) {
                p.rvalid = false;
                p.bytes_read += word_;
                moved = cycle;
                memset(p.rdata, 0xdb, word_);  // whoever looks when nothing is valid shall notice
            }
            if (p.wvalid) {
                if (p.wready) take(k);
                else if (p.stopped) held_ = true;
            }
            p.w_waits = p.wvalid && !p.wready;
            if (p.w_waits) {
                p.wlast_held = p.wlast;
                memcpy(p.wdata_held, p.wdata, word_);
                memcpy(p.wstrb_held, p.wstrb, (word_ + 7) / 8);
            }
            p.aw_waits = p.awvalid && !p.awready;
            if (p.aw_waits) p.aw_held = p.aw;
            p.ar_waits = p.arvalid && !p.arready;
            if (p.ar_waits) p.ar_held = p.ar;
            if (p.awvalid && p.awready) p.writes.push(accepted(k, p.aw, true));
            if (p.arvalid && p.arready) p.reads.push(accepted(k, p.ar, false));
        }
        held += held_;
        cycle++;
    }

    // Call it while the design is in reset.
    void check_reset() const {
        for (size_t k = 0; k < ports.size(); k++) {
            const Port& p = ports[k];
            if (p.awvalid || p.wvalid || p.arvalid)
                violation(k, "%s valid during reset", p.awvalid ? "AW" : p.wvalid ? "W" : "AR");
        }
    }

  private:
    Settings settings_;
    Random random_;
    size_t word_;
    uint64_t base_, size_;
    uint64_t pause_;
    uint64_t phase_ = 0;        // of refresh, which ends an interval
    double balance_ = 0;        // bytes that may still move
    size_t turn_ = 0;
    bool held_ = false;
    uint64_t count_[2] = {};    // reads, writes so far

    bool pause() { return random_.below(pause_); }

    uint64_t due() {
        const uint64_t jitter = settings_.jitter ? random_.next() % (settings_.jitter + 1) : 0;
        return cycle + settings_.latency + jitter;
    }

    [[noreturn]] __attribute__((format(printf, 3, 4)))
    void violation(size_t port, const char* format, ...) const {
        fprintf(stderr, "memory port %zu: ", port);
        va_list arguments;
        va_start(arguments, format);
        vfprintf(stderr, format, arguments);
        va_end(arguments);
        fprintf(stderr, " (cycle %llu of the memory)\n", (unsigned long long)cycle);
        exit(VIOLATION);
    }

    void stable(size_t port, const char* channel, bool waits, bool valid, bool same) const {
        if (!waits) return;
        if (!valid) violation(port, "%s was valid and not ready, and is valid no more", channel);
        if (!same) violation(port, "%s changed while valid and not ready", channel);
    }

    // A request from an address that the design has given.
    Request accepted(size_t port, const Address& a, bool write) {
        const char* what = write ? "write" : "read";
        const uint64_t bytes = (a.len + 1ull) * word_;
        const auto addr = (unsigned long long)a.addr;
        if (a.burst != INCR) violation(port, "%s burst is of type %u, not INCR", what, a.burst);
        if (1ull << a.size != word_)
            violation(port, "%s beats are of %llu bytes, the bus is of %zu", what,
                      1ull << a.size, word_);
        if (a.addr % word_)
            violation(port, "%s address 0x%llx is no multiple of %zu bytes", what, addr, word_);
        if (a.addr % PAGE + bytes > PAGE)
            violation(port, "%s of %llu bytes at 0x%llx crosses a 4 KB boundary", what,
                      (unsigned long long)bytes, addr);
        if (a.addr < base_ || a.addr - base_ > size_ || bytes > size_ - (a.addr - base_))
            violation(port, "%s of %llu bytes at 0x%llx is outside the memory, 0x%llx to 0x%llx",
                      what, (unsigned long long)bytes, addr, (unsigned long long)base_,
                      (unsigned long long)(base_ + size_ - 1));
        Request request{a.addr - base_, bytes, a.id, due()};
        // No order holds between a read and a write: what is read would depend on luck.
        for (size_t k = 0; k < ports.size(); k++) {
            Requests& others = write ? ports[k].reads : ports[k].writes;
            for (size_t n = 0; n < others.count; n++)
                if (request.overlaps(others[n]))
                    violation(port, "%s of %llu bytes at 0x%llx overlaps a %s at port %zu that is "
                              "not answered yet", what, (unsigned long long)bytes, addr,
                              write ? "read" : "write", k);
        }
        const uint64_t number = count_[write]++;
        const Fault fault = settings_.fault;
        if (fault == Fault::SILENT) request.silent = count_[0] + count_[1] > settings_.fault_at;
        else if (number == settings_.fault_at) {
            if (fault == (write ? Fault::WRITE_SLVERR : Fault::READ_SLVERR))
                request.response = SLVERR;
            if (fault == (write ? Fault::WRITE_DECERR : Fault::READ_DECERR))
                request.response = DECERR;
        }
        return request;
    }

    // Offer the next word of the oldest read.
    void give(Port& p) {
        Request& r = p.reads[0];
        memcpy(p.rdata, &data[r.offset + p.bytes_given], word_);
        // A word that is broken is one of a burst; an address that is nobody's is of them all.
        const bool broken = r.response == DECERR
            || (r.response == SLVERR && p.bytes_given == r.bytes / word_ / 2 * word_);
        p.rresp = broken ? r.response : OKAY;
        if (broken)
            for (size_t k = 0; k < word_; k++) p.rdata[k] = (uint8_t)~p.rdata[k];
        p.bytes_given += word_;
        p.rlast = p.bytes_given == r.bytes;
        p.rid = r.id;
        p.rvalid = true;
        if (p.rlast) {
            p.bytes_given = 0;
            p.reads.pop();
        }
    }

    // A word of the oldest write that is not complete.
    void take(size_t port) {
        Port& p = ports[port];
        Request& r = p.writes[p.filled];
        uint8_t* place = &data[r.offset + p.bytes_taken];
        for (size_t k = 0; k < word_; k += 8) {
            const unsigned lanes = word_ - k < 8 ? (1u << (word_ - k)) - 1 : 0xff;
            const unsigned strobes = p.wstrb[k / 8] & lanes;
            p.bytes_written += (unsigned)__builtin_popcount(strobes);
            if (r.response != OKAY) continue;
            if (strobes == 0xff) memcpy(place + k, p.wdata + k, 8);
            else
                for (size_t n = 0; n < 8; n++)
                    if (strobes >> n & 1) place[k + n] = p.wdata[k + n];
        }
        p.bytes_taken += word_;
        balance_ -= (double)word_;
        moved = cycle;
        const bool last = p.bytes_taken == r.bytes;
        if (p.wlast != last)
            violation(port, "wlast is %d at beat %llu of %llu", p.wlast,
                      (unsigned long long)(p.bytes_taken / word_),
                      (unsigned long long)(r.bytes / word_));
        if (last) {
            r.due = due();
            p.filled++;
            p.bytes_taken = 0;
        }
    }
};

}  // namespace offchip
