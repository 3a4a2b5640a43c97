// The allocator of a simulated device: real memory of the CPU, or addresses that hold nothing, charged to a ledger.
//
// Owns what a `DataPtr` on a simulated device carries. It knows no operators.
#pragma once

#include "ledger.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Storage.h>

#include <cstring>
#include <map>

namespace devpolicy {

// What an allocation holds until it is freed: memory of its own, or a result that the CPU's kernel allocated.
struct Held {
  c10::DataPtr memory;
  c10::Storage result;
  std::shared_ptr<Ledger> ledger;
  int64_t bytes;
  uint32_t charged_to = process_number();
};

inline void release_held(void* context) {
  auto* held = static_cast<Held*>(context);
  held->ledger->release(held->bytes, held->charged_to);
  delete held;
}

// In a phantom world an allocation of so many bytes or fewer is real and keeps its numbers: those that steer a program
// (lengths, masks, tokens, scales) are small. What is computed of numbers that are not there is 0.
constexpr size_t kKeptBytes = 1 << 16;
constexpr uint64_t kPhantomBegin = uint64_t{1} << 52;

// Addresses for phantom memory: each allocation has its own, since libraries tell shared tensors by `data_ptr`. Nothing
// is mapped there, so that code which reads a phantom stops at once.
inline void* phantom_address(size_t bytes) {
  constexpr uint64_t kRoom = uint64_t{1} << 51, kStep = 512;
  static std::atomic<uint64_t> next{0};
  if (bytes == 0) return nullptr;
  const auto size = (bytes + kStep - 1) / kStep * kStep;
  return reinterpret_cast<void*>(kPhantomBegin + next.fetch_add(size) % kRoom);
}

inline bool has_numbers(const c10::Storage& storage) {
  const auto address = reinterpret_cast<uint64_t>(storage.data());
  return storage.nbytes() == 0 || (address != 0 && address < kPhantomBegin);
}

// Of the CPU's allocator, so that alignment, and with it every kernel's path, is that of a CPU tensor.
inline c10::DataPtr memory_for(const World& world, size_t bytes) {
  if (!world.phantom) return c10::GetCPUAllocator()->allocate(bytes);
  if (bytes > kKeptBytes) return {};
  auto memory = c10::GetCPUAllocator()->allocate(bytes);
  if (bytes > 0) std::memset(memory.get(), 0, bytes);
  return memory;
}

// A `DataPtr` on a device over what a kernel has allocated. The charge may raise.
inline c10::DataPtr adopt_memory(const World& world, const std::shared_ptr<Ledger>& ledger, c10::Storage result) {
  const auto size = result.nbytes();
  const auto bytes = static_cast<int64_t>(size);
  ledger->charge(bytes);
  if (world.phantom && (size > kKeptBytes || !result.device().is_cpu())) {
    auto memory = memory_for(world, size);
    void* data = size > kKeptBytes ? phantom_address(size) : memory.get();
    return {data, new Held{std::move(memory), {}, ledger, bytes}, release_held, ledger->device()};
  }
  void* data = result.mutable_data();
  return {data, new Held{{}, std::move(result), ledger, bytes}, release_held, ledger->device()};
}

class Allocator final : public c10::DeviceAllocator {
 public:
  explicit Allocator(int kind) : kind_(kind) {}

  c10::DataPtr allocate(size_t size) override {
    const auto world = open_world(kind_);
    const auto& ledger = ledger_of(*world, kind_, current_index(kind_));
    const auto bytes = static_cast<int64_t>(size);
    ledger->charge(bytes);
    auto memory = memory_for(*world, size);
    void* data = world->phantom && size > kKeptBytes ? phantom_address(size) : memory.get();
    return {data, new Held{std::move(memory), {}, ledger, bytes}, release_held, ledger->device()};
  }

  void copy_data(void* to, const void* from, std::size_t count) const override {
    const auto real = [](const void* address) { return reinterpret_cast<uint64_t>(address) < kPhantomBegin; };
    if (real(to) && real(from)) std::memcpy(to, from, count);
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  bool initialized() override { return device_count(kind_) > 0; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  void resetAccumulatedStats(DeviceIndex) override {}
  void resetPeakStats(DeviceIndex index) override { ledger_of(*open_world(kind_), kind_, index)->reset_peak(); }

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex index) override {
    const auto figures = ledger_of(*open_world(kind_), kind_, index)->figures();
    c10::CachingDeviceAllocator::DeviceStats stats;
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    // Nothing is cached and nothing is rounded: what is allocated, requested, active and reserved is the same.
    for (auto* bytes : {&stats.allocated_bytes, &stats.requested_bytes, &stats.active_bytes, &stats.reserved_bytes}) {
      auto& one = (*bytes)[all];
      one.current = figures.used;
      one.peak = figures.peak;
      one.allocated = figures.allocated_ever;
      one.freed = figures.freed_ever;
    }
    stats.allocation[all].current = figures.allocations - figures.frees;
    stats.allocation[all].allocated = figures.allocations;
    stats.allocation[all].freed = figures.frees;
    stats.num_ooms = figures.failures;
    return stats;
  }

  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex index) override {
    const auto figures = ledger_of(*open_world(kind_), kind_, index)->figures();
    return {std::max<int64_t>(0, figures.capacity - figures.used - figures.others), figures.total};
  }

 private:
  const int kind_;
};

// Page-locked memory is the CPU's: what is asked of it is only whether it is.
class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    auto memory = c10::GetCPUAllocator()->allocate(size);
    void* data = memory.get();
    {
      std::lock_guard<std::mutex> hold(lock_);
      if (data != nullptr) blocks_[reinterpret_cast<uintptr_t>(data)] = size;
    }
    return {data, new c10::DataPtr(std::move(memory)), free_block, c10::Device(DeviceType::CPU)};
  }

  void copy_data(void* to, const void* from, std::size_t count) const override { std::memcpy(to, from, count); }

  // Pointers into a block count too: a view of pinned memory is pinned.
  bool holds(const void* pointer) const {
    std::lock_guard<std::mutex> hold(lock_);
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    auto after = blocks_.upper_bound(address);
    if (after == blocks_.begin()) return false;
    --after;
    return address < after->first + after->second;
  }

  static PinnedAllocator& one() {
    static auto* allocator = new PinnedAllocator();
    return *allocator;
  }

 private:
  static void free_block(void* context) {
    auto* memory = static_cast<c10::DataPtr*>(context);
    {
      std::lock_guard<std::mutex> hold(one().lock_);
      one().blocks_.erase(reinterpret_cast<uintptr_t>(memory->get()));
    }
    delete memory;
  }

  mutable std::mutex lock_;
  std::map<uintptr_t, size_t> blocks_;
};

inline Allocator* allocator_of(int kind) {
  static std::array<Allocator*, kKinds> all{new Allocator(kCuda), new Allocator(kMps), new Allocator(kXpu)};
  return all[kind];
}

}  // namespace devpolicy
