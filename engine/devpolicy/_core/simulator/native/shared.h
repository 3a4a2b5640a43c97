// Devices that several processes share: what all of them hold together.
//
// Owns a file that the processes of one host map into their memory. A process that ends without a word is found out
// when memory is short, and what it held is given back.
#pragma once

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

namespace devpolicy {

// A number that a fork does not have in common with the process that it is a fork of.
inline std::atomic<uint32_t>& process_number() {
  static std::atomic<uint32_t> number{[] {
    pthread_atfork(nullptr, nullptr, [] { ++process_number(); });
    return 0u;
  }()};
  return number;
}

class Shared {
 public:
  // Map the file, which the first process makes: empty pages are zeros, which is a host where nothing is held.
  static std::shared_ptr<Shared> open(const std::string& path) {
    const auto size = sizeof(Page);
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return nullptr;
    void* mapped = ftruncate(file, size) == 0
        ? mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
    ::close(file);
    if (mapped == MAP_FAILED) return nullptr;
    return std::shared_ptr<Shared>(new Shared(static_cast<Page*>(mapped)));
  }

  ~Shared() {
    leave();
    munmap(page_, sizeof(Page));
  }

  // Charge bytes, if the device's capacity has room for them.
  bool take(int device, int64_t bytes, int64_t capacity) {
    auto& total = page_->total[device];
    for (int attempt = 0; attempt < 2; ++attempt) {
      if (total.fetch_add(bytes) + bytes <= capacity) {
        slot().used[device] += bytes;
        return true;
      }
      total -= bytes;
      if (attempt == 0) bury();
    }
    return false;
  }

  void give(int device, int64_t bytes) {
    page_->total[device] -= bytes;
    slot().used[device] -= bytes;
  }

  // What all processes hold.
  int64_t total(int device) {
    bury();
    return page_->total[device];
  }

  void count_operation(int device) { page_->operations[device].fetch_add(1, std::memory_order_relaxed); }
  int64_t operations(int device) const { return page_->operations[device]; }

 private:
  static constexpr int kDevices = 3 * 64, kProcesses = 128;

  struct Slot {
    std::atomic<int32_t> process;
    std::array<std::atomic<int64_t>, kDevices> used;
  };
  struct Page {
    std::array<std::atomic<int64_t>, kDevices> total, operations;
    std::array<Slot, kProcesses> slots;
  };
  static_assert(std::atomic<int64_t>::is_always_lock_free, "locks of one process are not those of another");

  explicit Shared(Page* page) : page_(page) {}

  // This process's row. A fork takes one of its own: what it has a copy of is held by the process that it came from.
  Slot& slot() {
    const auto process = static_cast<int32_t>(getpid());
    if (mine_ >= 0 && page_->slots[mine_].process == process) return page_->slots[mine_];
    for (int attempt = 0; attempt < 2; ++attempt) {
      for (int at = 0; at < kProcesses; ++at) {
        int32_t nobody = 0;
        if (page_->slots[at].process == process || page_->slots[at].process.compare_exchange_strong(nobody, process)) {
          mine_ = at;
          return page_->slots[at];
        }
      }
      bury();
    }
    // More processes than rows: the last row is everybody's, and is never given back.
    mine_ = kProcesses - 1;
    return page_->slots[mine_];
  }

  void empty(Slot& slot) {
    for (int device = 0; device < kDevices; ++device) page_->total[device] -= slot.used[device].exchange(0);
    slot.process = 0;
  }

  void leave() {
    if (mine_ >= 0 && page_->slots[mine_].process == static_cast<int32_t>(getpid())) empty(page_->slots[mine_]);
  }

  void bury() {
    for (auto& slot : page_->slots) {
      const int32_t process = slot.process;
      if (process != 0 && has_ended(process)) empty(slot);
    }
  }

  // A process that nobody has waited for has still a number, and holds nothing.
  static bool has_ended(int32_t process) {
    if (kill(process, 0) != 0) return errno == ESRCH;
    char path[32], line[512] = {};
    std::snprintf(path, sizeof path, "/proc/%d/stat", process);
    if (FILE* file = std::fopen(path, "re")) {
      const auto read = std::fread(line, 1, sizeof line - 1, file);
      std::fclose(file);
      const char* after = read > 0 ? std::strrchr(line, ')') : nullptr;
      return after != nullptr && after[1] != '\0' && (after[2] == 'Z' || after[2] == 'X');
    }
    return false;
  }

  Page* const page_;
  int mine_ = -1;
};

}  // namespace devpolicy
