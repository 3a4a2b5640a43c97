// What a simulated device holds: bytes in use, their peak, and what is to fail.
//
// Owns the simulated host as the C++ side knows it. It knows no tensor and no dispatch key's kernels.
#pragma once

#include "shared.h"

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <c10/core/DispatchKey.h>
#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace devpolicy {

using c10::DeviceIndex;
using c10::DeviceType;

// The types that are simulated, as positions in tables.
enum Kind : int { kCuda = 0, kMps = 1, kXpu = 2 };
constexpr int kKinds = 3;
// The autograd engine gets a thread for each ordinal when the backend is loaded, so there is a limit.
constexpr int kMostDevices = 64;

constexpr std::array<DeviceType, kKinds> kTypes{DeviceType::CUDA, DeviceType::MPS, DeviceType::XPU};
constexpr std::array<c10::DispatchKey, kKinds> kKeys{
    c10::DispatchKey::CUDA, c10::DispatchKey::MPS, c10::DispatchKey::XPU};
constexpr std::array<const char*, kKinds> kNames{"CUDA", "MPS", "XPU"};

// The position of a type, -1 for a type that is not simulated.
inline int kind_of(DeviceType type) {
  switch (type) {
    case DeviceType::CUDA: return kCuda;
    case DeviceType::MPS: return kMps;
    case DeviceType::XPU: return kXpu;
    default: return -1;
  }
}

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// The figures of one device, as they are at one moment. Sizes in bytes.
struct Figures {
  int64_t total = 0, capacity = 0, used = 0, peak = 0;
  int64_t allocations = 0, frees = 0, failures = 0, allocated_ever = 0, freed_ever = 0;
  int64_t operations = 0, received = 0, sent = 0;
  int64_t others = 0;             // held by other processes of the host, where it is shared
  int64_t operations_of_all = 0;  // theirs and this one's
};

// One device's account. Every allocation keeps its ledger alive, so a tensor that outlives its simulation is paid back
// where it was charged.
class Ledger {
 public:
  Ledger(int kind, int index, int64_t total, int64_t capacity, std::string fault, int capability,
         std::shared_ptr<Shared> shared = {})
      : kind_(kind), index_(index), capability_(capability), fault_(std::move(fault)), shared_(std::move(shared)) {
    figures_.total = total;
    figures_.capacity = capacity;
  }

  c10::Device device() const { return {kTypes[kind_], static_cast<DeviceIndex>(index_)}; }

  // CUDA's compute capability, 89 for 8.9; 0 where the host does not say.
  int capability() const { return capability_; }

  // Raise what the driver of a device with a fault says, whatever it is asked to do.
  void require_working() const { TORCH_CHECK(fault_.empty(), fault_); }

  // Charge an allocation, or raise torch's error for a full device and leave everything as it was.
  void charge(int64_t bytes) {
    require_working();
    std::lock_guard<std::mutex> hold(lock_);
    const bool over = bytes > allowed_ - figures_.used || bytes >= refused_from_;
    if (over || !(shared_ ? shared_->take(place(), bytes, figures_.capacity)
                          : bytes <= figures_.capacity - figures_.used)) {
      ++figures_.failures;
      refuse(bytes);
    }
    figures_.used += bytes;
    figures_.peak = std::max(figures_.peak, figures_.used);
    figures_.allocated_ever += bytes;
    ++figures_.allocations;
  }

  // `by` is the number of the process that was charged: a fork that lets go of a copy gives nothing back.
  void release(int64_t bytes, uint32_t by) noexcept {
    std::lock_guard<std::mutex> hold(lock_);
    if (shared_ && by == process_number()) shared_->give(place(), bytes);
    figures_.used -= bytes;
    figures_.freed_ever += bytes;
    ++figures_.frees;
  }

  // Count an operation; raise where this is the one that is to fail. As on a device whose context is lost, all that
  // follow fail too.
  void operate(const std::string& name) {
    require_working();
    std::string why;
    {
      std::lock_guard<std::mutex> hold(lock_);
      ++figures_.operations;
      if (shared_) shared_->count_operation(place());
      if (figures_.operations < fails_from_) return;
      why = failure_;
    }
    fail(why, name);
  }

  // Raise where the context is lost: what waits for a device hears of it.
  void synchronize() const {
    require_working();
    std::string why;
    {
      std::lock_guard<std::mutex> hold(lock_);
      if (figures_.operations < fails_from_) return;
      why = failure_;
    }
    fail(why, "synchronize");
  }

  [[noreturn]] void fail(const std::string& why, const std::string& name) const {
    throw c10::AcceleratorError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, 719,
                                why + "\n(simulated on " + device().str() + ", in " + name + ")");
  }

  void receive(int64_t bytes) { std::lock_guard<std::mutex> hold(lock_); figures_.received += bytes; }
  void send(int64_t bytes) { std::lock_guard<std::mutex> hold(lock_); figures_.sent += bytes; }

  Figures figures() const {
    std::lock_guard<std::mutex> hold(lock_);
    auto figures = figures_;
    figures.operations_of_all = figures.operations;
    if (shared_) {
      // A fork has copies of what the process that it came from holds: they are there once.
      figures.others = shared_->total(place()) - figures.used;
      figures.operations_of_all = shared_->operations(place());
    }
    return figures;
  }
  void reset_peak() { std::lock_guard<std::mutex> hold(lock_); figures_.peak = figures_.used; }
  void set_capacity(int64_t bytes) { std::lock_guard<std::mutex> hold(lock_); figures_.capacity = bytes; }
  void refuse_from(int64_t bytes) { std::lock_guard<std::mutex> hold(lock_); refused_from_ = bytes; }
  // At most so many bytes for this process, whatever is free.
  void allow(int64_t bytes) { std::lock_guard<std::mutex> hold(lock_); allowed_ = bytes; }
  // `count` operations are done before the first that fails.
  void fail_after(int64_t count, std::string why) {
    std::lock_guard<std::mutex> hold(lock_);
    fails_from_ = count == kNever ? kNever : figures_.operations + count + 1;
    failure_ = std::move(why);
  }

 private:
  // torch's words, which libraries look for; the parentheses at the end are ours.
  [[noreturn]] void refuse(int64_t bytes) const {
    const auto size = [](int64_t n) { return c10::CachingAllocator::format_size(static_cast<uint64_t>(n)); };
    const auto theirs = shared_ ? shared_->total(place()) - figures_.used : 0;
    const auto free = std::max<int64_t>(0, figures_.capacity - figures_.used - theirs);
    const auto used = figures_.used, others = figures_.total - figures_.capacity + theirs;
    if (kind_ == kMps) {
      TORCH_CHECK_WITH(OutOfMemoryError, false, "MPS backend out of memory (MPS allocated: ", size(used),
                       ", other allocations: ", size(others), ", max allowed: ", size(figures_.total),
                       "). Tried to allocate ", size(bytes), " on private pool. Use "
                       "PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory allocations (may cause "
                       "system failure). (simulated device mps:0)");
    }
    const auto allowed = allowed_ == kNever ? std::string() : size(allowed_) + " allowed; ";
    TORCH_CHECK_WITH(OutOfMemoryError, false, kNames[kind_], " out of memory. Tried to allocate ", size(bytes), ". GPU ",
                     index_, " has a total capacity of ", size(figures_.total), " of which ", size(free),
                     " is free. Other processes have ", size(others), " memory in use. Including non-PyTorch memory, "
                     "this process has ", size(used), " memory in use. ", allowed, "Of the allocated memory ", size(used),
                     " is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated. If reserved but "
                     "unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid "
                     "fragmentation.  See documentation for Memory Management  (https://docs.pytorch.org/docs/stable/"
                     "notes/cuda.html#optimizing-memory-usage-with-pytorch-alloc-conf) (simulated device ", device(),
                     ")");
  }

  int place() const { return kind_ * kMostDevices + index_; }

  const int kind_, index_, capability_;
  const std::string fault_;
  const std::shared_ptr<Shared> shared_;
  mutable std::mutex lock_;
  Figures figures_;
  int64_t refused_from_ = kNever;
  int64_t allowed_ = kNever;
  int64_t fails_from_ = kNever;
  std::string failure_;
};

// The host that is simulated: its devices' ledgers, by kind and ordinal, and whether they hold data.
struct World {
  std::array<std::vector<std::shared_ptr<Ledger>>, kKinds> devices;
  bool phantom = false;
  int accelerator = -1;  // the kind that torch takes as its accelerator
  std::string config;    // what `torch.__config__.show()` adds
  uint64_t epoch = 0;    // its number among the worlds of this process
};

// A pointer that one thread may replace while others read it.
class CurrentWorld {
 public:
  std::shared_ptr<World> load() const { std::lock_guard<std::mutex> hold(lock_); return world_; }
  void store(std::shared_ptr<World> world) { std::lock_guard<std::mutex> hold(lock_); world_.swap(world); }

 private:
  mutable std::mutex lock_;
  std::shared_ptr<World> world_;
};

// One world at a time. What every operation asks stands in plain atomics beside it.
struct State {
  CurrentWorld world;
  std::array<std::atomic<int>, kKinds> counts{};
  std::atomic<uint64_t> epoch{0};  // a new one for each world: current devices and streams start anew
  std::atomic<int> sync_debug{0};  // what a call that waits for a device does: 0 nothing, 1 warns, 2 raises
};

inline State& state() {
  static State* one = new State();  // never destroyed: tensors may be freed while the process ends
  return *one;
}

inline int device_count(int kind) { return state().counts[kind].load(std::memory_order_relaxed); }

inline std::string no_such_device(int kind, int index) {
  return (kind == kMps ? std::string("MPS error: ") : std::string(kNames[kind]) + " error: ") +
      "invalid device ordinal (" + c10::DeviceTypeName(kTypes[kind], true) + ":" + std::to_string(index) +
      ", and the simulated host has " + std::to_string(device_count(kind)) + ")";
}

inline std::shared_ptr<World> open_world(int kind) {
  auto world = state().world.load();
  TORCH_CHECK_NOT_IMPLEMENTED(world != nullptr, "Could not run an operation on the '", kNames[kind],
      "' backend: no host is simulated any more, and this torch was built without ", kNames[kind],
      ". A tensor of a simulated host cannot be used after the simulation has ended.");
  return world;
}

inline const std::shared_ptr<Ledger>& ledger_of(const World& world, int kind, int index) {
  const auto& row = world.devices[kind];
  TORCH_CHECK(index >= 0 && index < static_cast<int>(row.size()), no_such_device(kind, index));
  return row[index];
}

// The current device of each kind in this thread; 0 in every new world.
inline DeviceIndex& current_index(int kind) {
  struct Current { uint64_t epoch = 0; std::array<DeviceIndex, kKinds> index{}; };
  static thread_local Current current;
  const auto epoch = state().epoch.load(std::memory_order_relaxed);
  if (current.epoch != epoch) current = Current{epoch, {}};
  return current.index[kind];
}

}  // namespace devpolicy
